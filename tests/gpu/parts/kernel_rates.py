"""Part 3: kernels beside the measured rates of the device, at sizes that fill it, and blending at 1024.

A kernel's least bytes are its inputs read once and its result written once; its time's share of a copy of as many bytes
says how far it is from the memory's limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry import Run, part


@dataclass(frozen=True)
class Row:
    """shapes of tensors; bound: by memory; work: operations, where bound by products; read: share of the inputs."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    call: Callable[..., Any]
    bound: bool = True
    work: float = 0.0
    read: float = 1.0


def rows(device: str, dry: bool) -> list[Row]:
    """Features of a large batch: hundreds of megabytes, which no cache holds."""
    import torch
    from bench_kernels import disc

    from regionstyle import kernels

    side, batch, channels, tokens = (32, 1, 8, 64) if dry else (256, 8, 128, 4096)
    feature, picture = (batch, channels, side, side), (2 * batch, 3, 4 * side, 4 * side)
    mask = disc(side, torch.device(device)).expand(batch, -1, -1, -1).contiguous()
    boxes = torch.tensor([[0, 0, 4 * side, 4 * side]] * (2 * batch))
    groups = torch.eye(8, 77, dtype=torch.bool, device=device)
    lora = ((4 * batch, tokens, 320), (4, 8, 320), (4, 320, 8), (4 * batch, tokens, 4), (4,))
    queries, keys = (4 * batch, 8, tokens, 40), (4 * batch, 8, 77, 40)
    products = 2.0 * 4 * batch * 8 * tokens * 77 * 40
    return [
        Row("masked_pool", (feature,), lambda x: kernels.masked_pool(x, mask)),
        Row("modulate", (feature, feature[:2], feature[:2]), lambda x, a, b: kernels.modulate(x, a, b, mask)),
        Row("adaptive_filter", (feature, (9,), (1,)), kernels.adaptive_filter),
        Row(
            "sample_patches",
            (picture,),
            lambda x: kernels.sample_patches(x, boxes, 64, 96, 128),
            read=min(1.0, 64 * 96**2 / (4 * side) ** 2),
        ),
        Row("routed_lora", lora, kernels.routed_lora),
        Row(
            "token_logodds, 8 words", (queries, keys), lambda q, k: kernels.token_logodds(q, k, groups), False, products
        ),
        Row("dct2", (feature,), kernels.dct2, False, 4.0 * batch * channels * side**3),
    ]


@part("kernel-rates", order=34, seconds=50)
def rates(run: Run) -> None:
    import torch
    from timing import copy_rate, matmul_rate

    copy, products = copy_rate(run.device, run.dry), matmul_rate(run.device, run.dry)
    run.figure("copy within the device, read and written", copy / 1e9, "GB/s")
    run.figure("matrix product, bfloat16", products / 1e12, "TFLOP/s")
    run.figure("matrix product, float32", matmul_rate(run.device, run.dry, torch.float32) / 1e12, "TFLOP/s")
    for row in rows(run.device, run.dry):
        for dtype in (torch.float32, torch.bfloat16):
            one(run, row, dtype, copy, products)


def one(run: Run, row: Row, dtype: Any, copy: float, products: float) -> None:
    """One kernel at one dtype: forward, and with gradients."""
    import torch
    from timing import seconds

    runs = 2 if run.dry else 15
    tensors = [torch.randn(shape, device=run.device).to(dtype).requires_grad_() for shape in row.shapes]
    with torch.no_grad():
        moved = row.read * sum(t.nbytes for t in tensors) + row.call(*tensors).nbytes
        took = seconds(lambda: row.call(*tensors), run.device, runs)
    label = f"{row.name}, {str(dtype).removeprefix('torch.')}"
    run.figure(label, 1000 * took, "ms")
    run.figure(f"{label}: of the copy rate", moved / took / copy, "x", wanted=">= 0.7" if row.bound else None)
    if row.work:
        run.figure(f"{label}: of the product rate", row.work / took / products, "x")
    ways = torch.randn_like(row.call(*tensors))
    both = seconds(lambda: torch.autograd.grad(row.call(*tensors), tensors, ways), run.device, runs)
    run.figure(f"{label}: with gradients", 1000 * both, "ms")


@part("poisson", order=35, seconds=20)
def poisson(run: Run) -> None:
    """A picture of 1024 x 1024 with a disc for the region."""
    import torch
    from bench_kernels import disc
    from timing import seconds

    from regionstyle import kernels

    side = 64 if run.dry else 1024
    source, target = (torch.rand(1, 3, side, side, device=run.device).requires_grad_() for _ in range(2))
    mask = disc(side, torch.device(run.device))
    runs = 2 if run.dry else 5
    with torch.no_grad():
        took = seconds(lambda: kernels.poisson_blend(source, target, mask), run.device, runs, 1)
    run.figure(f"poisson_blend at {side}", 1000 * took, "ms")

    def backward() -> Any:
        return torch.autograd.grad(kernels.poisson_blend(source, target, mask).sum(), (source, target))

    run.figure(f"poisson_blend at {side}, with gradients", 1000 * seconds(backward, run.device, runs, 1), "ms")
