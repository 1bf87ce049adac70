"""Times on a GPU by events, on a CPU by the clock."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def seconds(action: Callable[[], Any], device: str, runs: int = 15, warm: int = 3) -> float:
    """Median of `runs` after `warm` that are not counted."""
    for _ in range(warm):
        action()
    return statistics.median(_once(action, device) for _ in range(runs))


def _once(action: Callable[[], Any], device: str) -> float:
    if device != "cuda":
        began = time.perf_counter()
        action()
        return time.perf_counter() - began
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    action()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def peak_mib(action: Callable[[], Any], device: str) -> float:
    """The most that torch holds of the GPU while something runs, in MiB; 0 on a CPU."""
    if device != "cuda":
        action()
        return 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**20


def copy_rate(device: str, dry: bool) -> float:
    """Bytes per second of a large copy within the device, read and written ones counted."""
    source = torch.empty((2**22 if dry else 2**29) // 2, dtype=torch.float16, device=device).normal_()
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device)


def matmul_rate(device: str, dry: bool, dtype: torch.dtype = torch.bfloat16) -> float:
    """Floating-point operations per second of a large matrix product."""
    side = 256 if dry else 8192
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, device)
