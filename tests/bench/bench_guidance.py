"""What each form of guidance costs a sampling step: python tests/bench/bench_guidance.py [--device cuda] [--side 16]

Seconds per step (median of five after one to warm up; on a CPU those of the processor, whatever else is running) and
the memory of one step beside that of a plain one: what the backward pass keeps of the forward pass, in MiB, and on a
GPU the peak. The network is the tiny world's, at a latent of `--side`, with one positive and one negative prompt and
two regions. Not a test: nothing here fails.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.sampling import guided
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.sampler.guidance import LocalGuide
from regionstyle.nodes.sampler.settings import FORMS, GuidanceSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor

PROMPT = "a red star in mosaic style and a blue ring in neon style"


@contextmanager
def kept(sizes: list[int]) -> Iterator[None]:
    """Notes the bytes of every storage that a graph keeps for its backward pass, each once."""
    seen: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def regions(side: int) -> Regions:
    masks = [torch.zeros(8 * side, 8 * side) for _ in range(2)]
    masks[0][:, : 4 * side], masks[1][:, 4 * side :] = 1, 1
    named = zip((("red star", "mosaic"), ("blue ring", "neon")), masks, strict=True)
    return Regions(tuple(Region(p, (0, 0, 1, 1), mask, style) for (p, style), mask in named), 8 * side, 8 * side)


def row(form: str | None, side: int, device: str | None) -> str:
    """One line of the table; None: a plain step, attention unseen."""
    predictor = load_predictor(LocalHost(device))
    text, negative = predictor.encode_text([PROMPT]), predictor.encode_text([""])
    x = torch.randn(1, 4, side, side, device=predictor.host.device)
    guide = None if form is None else LocalGuide(predictor, text, regions(side), GuidanceSettings(form=form))

    def predict(latent: Tensor, other: object = None) -> object:
        return guided(predictor, latent, 0.8, other or text, negative, 4.0)

    def step() -> None:
        with torch.no_grad():
            predict(x) if guide is None else guide(0.0, x, 0.8, predict)

    times, on_gpu = [], predictor.host.device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.process_time
    with predictor.loaded():
        for _ in range(6):
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            began = clock()
            step()
            if on_gpu:
                torch.cuda.synchronize()
            times.append(clock() - began)
        sizes: list[int] = []
        with kept(sizes):
            step()
    peak = f"   peak {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB" if on_gpu else ""
    name = form or "plain step"
    return f"{name:>12}  {statistics.median(times[1:]):7.3f} s   kept {sum(sizes) / 2**20:7.1f} MiB{peak}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device")
    parser.add_argument("--side", type=int, default=16)
    args = parser.parse_args()
    machine = torch.cuda.get_device_name() if args.device == "cuda" else f"{platform.machine()}, CPU"
    sys.stdout.write(f"torch {torch.__version__}, {machine}, {torch.get_num_threads()} threads, latent {args.side}\n")
    for form in (None, *FORMS):
        sys.stdout.write(row(form, args.side, args.device) + "\n")


if __name__ == "__main__":
    main()
