"""Log-sum-exp of attention logits over sets of keys, without keeping the attention map.

Two forms of one computation: plain torch in pieces, everywhere, and a fused one on GPUs that Triton knows.
"""

import functools
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._checks import compute_dtype, full_precision

log = logging.getLogger("regionstyle")

# Logits held at once. On CPU a piece should stay in the cache; on GPU it should fill the device and no more.
_CPU_ELEMENTS = 1 << 18
_GPU_ELEMENTS = 1 << 22


def key_logsumexp(q: Tensor, k: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """logsumexp over the kept keys of scale * q k^T.

    q `[B,H,N,D]`, k `[B,H,M,D]`, keep bool `[B,S,M]` with at least one key in each set, or None for one set
    holding every key. Returns `[B,H,S,N]` in the accumulating dtype. Differentiable once, in q and k; the backward
    pass computes the logits again, so memory grows with N + M and not with N * M.
    """
    if keep is not None:
        k, keep = _drop_unused_keys(k, keep)
    return _KeyLogSumExp.apply(q, k, keep, scale)


def _fused(q: Tensor, k: Tensor) -> ModuleType | None:
    """The fused kernels, where they run on the tensors' device and take them; None: plain torch."""
    kernels = _triton_kernels() if q.is_cuda else None
    fits = kernels is not None and kernels.supports(q, k) and kernels.works_on(q.device, q.dtype)
    return kernels if fits else None


@functools.cache
def _triton_kernels() -> ModuleType | None:
    try:
        from .triton import logsumexp
    except Exception as problem:  # noqa: BLE001  a Triton that is broken or too old raises anything
        absent = isinstance(problem, ModuleNotFoundError) and problem.name == "triton"
        level, state = (logging.INFO, "is not installed") if absent else (logging.WARNING, "cannot be imported")
        log.log(level, "Triton %s (%s): attention maps are made by plain torch, slower", state, problem)
        return None
    return logsumexp


def _drop_unused_keys(k: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Keep only keys that some set uses: a text range is a small part of a joint sequence."""
    used = keep.flatten(0, 1).any(0).nonzero().squeeze(1)
    if used.numel() == k.shape[2]:
        return k, keep.to(k.device)
    return k.index_select(2, used.to(k.device)), keep.index_select(2, used).to(k.device)


def _pieces(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Slices of the N query rows, each small enough for its logits to be held."""
    elements = _GPU_ELEMENTS if q.is_cuda else _CPU_ELEMENTS
    n = q.shape[2]
    rows = max(1, elements // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    # Eight pieces at least, so that even a problem under the budget never holds a whole map.
    rows = min(rows, max(8, -(-n // 8)))
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _masked(logits: Tensor, keep: Tensor | None, index: int) -> Tensor:
    """Logits `[B,H,n,M]` with the keys outside set `index` at minus infinity."""
    return logits if keep is None else logits.masked_fill(~keep[:, index, None, None], -torch.inf)


class _KeyLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, keep: Tensor | None, scale: float) -> Tensor:
        fused = _fused(q, k)
        lse = _plain_forward(q, k, keep, scale) if fused is None else fused.forward(q, k, keep, scale)
        ctx.save_for_backward(q, k, keep, lse)
        ctx.scale, ctx.fused = scale, fused
        return lse

    @staticmethod
    @once_differentiable
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        q, k, keep, lse = ctx.saved_tensors
        for_q, for_k = ctx.needs_input_grad[:2]
        if ctx.fused is None:
            grad_q, grad_k = _plain_backward(grad, q, k, keep, lse, ctx.scale, for_q, for_k)
        else:
            grad_q = ctx.fused.grad_of_q(grad, q, k, keep, lse, ctx.scale) if for_q else None
            grad_k = ctx.fused.grad_of_k(grad, q, k, keep, lse, ctx.scale) if for_k else None
        return _in_dtype(grad_q, q), _in_dtype(grad_k, k), None, None


def _in_dtype(found: Tensor | None, like: Tensor) -> Tensor | None:
    return None if found is None else found.to(like.dtype)


def _plain_forward(q: Tensor, k: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """`key_logsumexp`, `[B,H,S,N]`, a piece of the rows after the other."""
    dtype = compute_dtype(q, k)
    keys = k.to(dtype).transpose(-1, -2) * scale
    sets = 1 if keep is None else keep.shape[1]
    parts = []
    for rows in _pieces(q, k):
        logits = q[:, :, rows].to(dtype) @ keys
        parts.append(torch.stack([_masked(logits, keep, s).logsumexp(-1) for s in range(sets)], 2))
    return torch.cat(parts, -1) if parts else keys.new_zeros(*q.shape[:2], sets, 0)


def _plain_backward(
    grad: Tensor, q: Tensor, k: Tensor, keep: Tensor | None, lse: Tensor, scale: float, for_q: bool, for_k: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of q and k in the accumulating dtype, as far as they are asked for."""
    keys = k.to(lse.dtype) * scale
    grad_q, grad_k = [], torch.zeros_like(keys)
    for rows in _pieces(q, k):
        queries = q[:, :, rows].to(lse.dtype)
        logits = queries @ keys.transpose(-1, -2)
        weight = torch.zeros_like(logits)
        for s in range(lse.shape[2]):
            share = torch.exp(_masked(logits, keep, s) - lse[:, :, s, rows, None])
            weight += grad[:, :, s, rows, None] * share
        if for_q:
            grad_q.append(weight @ keys)
        if for_k:
            grad_k += weight.transpose(-1, -2) @ queries
    dq = (torch.cat(grad_q, 2) if grad_q else torch.zeros_like(q)) if for_q else None
    return dq, grad_k * scale if for_k else None
