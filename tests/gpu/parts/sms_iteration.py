"""Part 3: an iteration of SMS beside a plain transcription of the published one, in time and memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from registry import Run, part


@part("sms", order=32, seconds=60)
def iteration(run: Run) -> None:
    """SD1.5's size at a latent of 64 x 64 with random weights; one side after the other, so that peaks are its own."""
    import bench_sms as bench
    import torch

    device = torch.device(run.device)
    source = bench.source_of(16 if run.dry else 64, device)

    def network() -> tuple[Any, Any, int]:
        return bench.network_of("tiny" if run.dry else "sd15", device)

    def transcription() -> Any:
        return bench.transcription(*network(), source)

    def ours(dtype: torch.dtype) -> Any:
        unet, style, width = network()
        return bench.ours(f"ours, {dtype}", unet.to(dtype), style, width, source)

    plain = side(run, "transcription, float32", transcription)
    single = side(run, "ours, float32", lambda: ours(torch.float32))
    half = side(run, "ours, bfloat16", lambda: ours(torch.bfloat16))
    run.figure("ours, float32: faster by", plain[0] / single[0], "x")
    run.figure("ours, bfloat16: faster by", plain[0] / half[0], "x", wanted=">= 5")
    run.figure(
        "ours, bfloat16: memory", half[1] / max(plain[1], 1), "x the transcription's", wanted="<= 0.25", of_gpu=True
    )


def side(run: Run, label: str, build: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of an iteration and peak memory in MiB."""
    import statistics

    from timing import peak_mib

    gc.collect()
    made = build()
    peak = peak_mib(lambda: [made.seconds(device_of(run)) for _ in range(2)], run.device)
    took = 1000 * statistics.median(made.seconds(device_of(run)) for _ in range(2 if run.dry else 10))
    run.figure(label, took, "ms an iteration")
    run.figure(f"{label}, GPU memory", peak, "MiB", of_gpu=True)
    return took, peak


def device_of(run: Run) -> Any:
    import torch

    return torch.device(run.device)
