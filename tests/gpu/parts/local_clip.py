"""Part 3: an iteration of local CLIP style beside a plain transcription of LEAST's published loop."""

from __future__ import annotations

import statistics
from typing import Any

from registry import LeftOut, Run, part


@part("local-clip", order=36, seconds=40)
def iteration(run: Run) -> None:
    """ViT-B/32 and VGG-19 of random weights, 64 patches; transcription and ours in turn."""
    patches = 2 if run.dry else 64
    took = [times_of(run, patches, half=half) for half in (False, True)]
    for label, (plain, own) in zip(("float32", "CLIP in half precision"), took, strict=True):
        run.figure(f"transcription beside {label}", 1000 * plain, "ms an iteration")
        run.figure(f"ours, {label}", 1000 * own, "ms an iteration")
        run.figure(f"ours, {label}: faster by", plain / own, "x", wanted=">= 4")


def times_of(run: Run, patches: int, *, half: bool) -> tuple[float, float]:
    """Medians in seconds, after one of each that does not count (in a dry run there is no other)."""
    try:
        import bench_local_clip as bench
        import torchvision  # noqa: F401
    except ImportError as error:
        raise LeftOut(f"{error}: pip install torchvision transformers") from error
    from regionstyle.nodes.engine.host.base import LocalHost

    host = LocalHost(run.device)
    both: tuple[Any, Any] = bench.pair_of(host, patches, half=half)
    rounds = [[bench.seconds(one.step, host.device) for one in both] for _ in range(1 if run.dry else 6)]
    plain, own = (statistics.median(times) for times in zip(*(rounds[1:] or rounds), strict=True))
    return plain, own
