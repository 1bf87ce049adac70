"""Log-sum-exp of attention logits over sets of keys: the tiles of q k^T never leave the chip.

Half-precision inputs are multiplied as they are and summed in float32; float32 inputs are multiplied in full float32,
never in TF32. One program walks over the keys for some rows (forward, gradient of q) or over some rows for its keys
(gradient of k, whose parts are added in a fixed order, so that the same input gives the same bits).
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

log = logging.getLogger("regionstyle")

WIDEST = 256  # channels of a head; wider heads do not fit a block
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PART = 1024  # one program sums up the gradient of k over so many query rows, or a multiple


@triton.jit
def _tile(pointer, start, count, row_stride, channel_stride, channels, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows `start` to `start + BLOCK` of a `[count, channels]` matrix, zeros beyond its edges."""
    row, channel = start + tl.arange(0, BLOCK), tl.arange(0, BLOCK_D)
    inside = (row < count)[:, None] & (channel < channels)[None, :]
    offsets = row.to(tl.int64)[:, None] * row_stride + channel.to(tl.int64)[None, :] * channel_stride
    return tl.load(pointer + offsets, mask=inside, other=0.0)


@triton.jit
def _store(pointer, tile, start, count, channels, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write a tile to rows `start` to `start + BLOCK` of a contiguous `[count, channels]` matrix, within its edges."""
    row, channel = start + tl.arange(0, BLOCK), tl.arange(0, BLOCK_D)
    place = row.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(pointer + place, tile, mask=(row < count)[:, None] & (channel < channels)[None, :])


@triton.jit
def _kept(keep, start, count, HAS_KEEP: tl.constexpr, BLOCK: tl.constexpr):
    """Which of the keys from `start` on exist and belong to the set whose bytes begin at `keep`."""
    key = start + tl.arange(0, BLOCK)
    kept = key < count
    if HAS_KEEP:
        kept = kept & (tl.load(keep + key, mask=kept, other=0) != 0)
    return kept


@triton.jit
def _logits(queries, keys, scale):
    return tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale


@triton.jit
def _weight(
    queries, block, scale, lse, grad, keep, row0, key0, sets, rows, keys,
    HAS_KEEP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient of the logits `[BLOCK_N, BLOCK_M]`: over the sets, gradient times share of the key."""
    logits, row = _logits(queries, block, scale), row0 + tl.arange(0, BLOCK_N)
    weight = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    s = 0
    while s < sets:  # the interpreter, which tests the kernels without a GPU, knows no range over an argument
        kept = _kept(keep + s * keys, key0, keys, HAS_KEEP, BLOCK_M)
        total = tl.load(lse + s * rows + row, mask=row < rows, other=0.0)
        above = tl.load(grad + s * rows + row, mask=row < rows, other=0.0)
        share = tl.where(kept[None, :], tl.exp(logits - total[:, None]), 0.0)
        weight += above[:, None] * share
        s += 1
    return weight


@triton.jit
def forward_kernel(
    q, k, keep, lse, heads, sets, rows, keys, channels,
    q_b, q_h, q_n, q_d, k_b, k_h, k_m, k_d, scale,
    HAS_KEEP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """lse `[B,H,S,N]`: one program per block of rows, set, head and sample; the running maximum keeps exp finite."""
    which, row0 = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_N
    s, h, b = which % sets, (which // sets) % heads, which // (sets * heads)
    queries = _tile(q + b * q_b + h * q_h, row0, rows, q_n, q_d, channels, BLOCK_N, BLOCK_D)
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    key0 = 0
    while key0 < keys:
        block = _tile(k + b * k_b + h * k_h, key0, keys, k_m, k_d, channels, BLOCK_M, BLOCK_D)
        kept = _kept(keep + (b * sets + s) * keys, key0, keys, HAS_KEEP, BLOCK_M)
        logits = tl.where(kept[None, :], _logits(queries, block, scale), float("-inf"))
        higher = tl.maximum(top, tl.max(logits, 1))
        # No key of this set so far, or a logit that overflowed: subtract 0, since inf - inf is no number.
        base = tl.where(tl.abs(higher) == float("inf"), 0.0, higher)
        total = total * tl.exp(top - base) + tl.sum(tl.exp(logits - base[:, None]), 1)
        top = higher
        key0 += BLOCK_M
    row = row0 + tl.arange(0, BLOCK_N)
    tl.store(lse + which * rows + row, top + tl.log(total), mask=row < rows)


@triton.jit
def grad_q_kernel(
    q, k, keep, lse, grad, grad_q, heads, sets, rows, keys, channels,
    q_b, q_h, q_n, q_d, k_b, k_h, k_m, k_d, scale,
    HAS_KEEP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_q `[B,H,N,D]` float32: one program per block of rows, head and sample."""
    which, row0 = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_N
    h, b = which % heads, which // heads
    queries = _tile(q + b * q_b + h * q_h, row0, rows, q_n, q_d, channels, BLOCK_N, BLOCK_D)
    found = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    first = which * sets * rows
    key0 = 0
    while key0 < keys:
        block = _tile(k + b * k_b + h * k_h, key0, keys, k_m, k_d, channels, BLOCK_M, BLOCK_D)
        weight = _weight(
            queries, block, scale, lse + first, grad + first, keep + b * sets * keys, row0, key0, sets, rows, keys,
            HAS_KEEP, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        found += tl.dot(weight, block.to(tl.float32), input_precision="ieee")
        key0 += BLOCK_M
    _store(grad_q + which * rows * channels, found * scale, row0, rows, channels, BLOCK_N, BLOCK_D)


@triton.jit
def grad_k_kernel(
    q, k, keep, lse, grad, grad_k, heads, sets, rows, keys, channels, part, parts,
    q_b, q_h, q_n, q_d, k_b, k_h, k_m, k_d, scale,
    HAS_KEEP: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """grad_k `[B,H,parts,M,D]` float32: one program per block of keys, `part` rows, head and sample."""
    which, key0 = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_M
    piece, h, b = which % parts, (which // parts) % heads, which // (parts * heads)
    block = _tile(k + b * k_b + h * k_h, key0, keys, k_m, k_d, channels, BLOCK_M, BLOCK_D)
    found = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    first = (b * heads + h) * sets * rows
    row0 = piece * part
    stop = tl.minimum(row0 + part, rows)
    while row0 < stop:
        queries = _tile(q + b * q_b + h * q_h, row0, rows, q_n, q_d, channels, BLOCK_N, BLOCK_D)
        weight = _weight(
            queries, block, scale, lse + first, grad + first, keep + b * sets * keys, row0, key0, sets, rows, keys,
            HAS_KEEP, BLOCK_N, BLOCK_M,
        )  # fmt: skip
        found += tl.dot(tl.trans(weight), queries.to(tl.float32), input_precision="ieee")
        row0 += BLOCK_N
    _store(grad_k + which * keys * channels, found * scale, key0, keys, channels, BLOCK_M, BLOCK_D)


def block_sizes(channels: int, item: int) -> dict[str, int]:
    """Sizes of a block for heads of `channels` channels of `item` bytes: its tiles fit the smallest GPU's 48 KB."""
    wide = max(16, triton.next_power_of_2(channels))
    side = 64 if wide * item <= 128 else 32 if wide * item <= 256 else 16
    return {"BLOCK_N": side, "BLOCK_M": side, "BLOCK_D": wide}


def part_rows(rows: int, keys: int) -> int:
    """Query rows in one part of the gradient of k: few keys need many parts to fill the GPU; with many keys, where
    the blocks of keys fill it, parts would take as much memory as the map. All parts hold at most rows + keys rows."""
    return -(-min(rows, keys) // PART) * PART


def supports(q: Tensor, k: Tensor) -> bool:
    """Whether these kernels take q `[B,H,N,D]` and k `[B,H,M,D]`: one half or float32 dtype, D up to 256, not empty."""
    return q.dtype == k.dtype and q.dtype in DTYPES and q.shape[-1] <= WIDEST and q.numel() > 0


@functools.cache
def works_on(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton can build and start a kernel for this device and dtype; tried once. If not, a warning says so."""
    try:
        _try_out(device, dtype)
    except torch.cuda.OutOfMemoryError:
        raise  # says nothing about Triton; an answer that is raised is not cached
    except Exception as problem:  # noqa: BLE001  Triton raises whatever its compiler, linker or driver raises
        message = "%s: the fused attention kernel cannot be used for %s (%s); plain torch is used, slower"
        log.warning(message, device, dtype, problem)
        return False
    return True


def _try_out(device: torch.device, dtype: torch.dtype) -> None:
    """Build a kernel and compare its number; RuntimeError where it is wrong, else whatever Triton raises."""
    if dtype == torch.bfloat16 and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        # Not left to Triton, whose compiler can end the process here.
        raise RuntimeError("GPUs before compute capability 8.0 multiply no bfloat16")
    one = torch.ones(1, 1, 1, 16, device=device, dtype=dtype)
    found = float(forward(one, one, None, 1.0))
    if not abs(found - 16) < 1e-3:
        raise RuntimeError(f"it found {found} for 16")


def forward(q: Tensor, k: Tensor, keep: Tensor | None, scale: float) -> Tensor:
    """logsumexp over the kept keys of scale * q k^T: `[B,H,S,N]` float32; keep bool `[B,S,M]` or None for one set."""
    b, h, n, _ = q.shape
    sets = 1 if keep is None else keep.shape[1]
    lse = torch.empty(b, h, sets, n, device=q.device, dtype=torch.float32)
    sizes = block_sizes(q.shape[-1], q.element_size())
    grid = (b * h * sets, triton.cdiv(n, sizes["BLOCK_N"]))
    _launch(forward_kernel, grid, sizes, q, k, keep, (lse,), (h, sets), (), scale)
    return lse


def grad_of_q(grad: Tensor, q: Tensor, k: Tensor, keep: Tensor | None, lse: Tensor, scale: float) -> Tensor:
    """Gradient `[B,H,N,D]` float32 of q, from the gradient `[B,H,S,N]` of `forward`'s result `lse`."""
    b, h, n, d = q.shape
    made = torch.empty(b, h, n, d, device=q.device, dtype=torch.float32)
    sizes = block_sizes(d, 4)  # these multiply in float32 whatever the input is
    grid = (b * h, triton.cdiv(n, sizes["BLOCK_N"]))
    _launch(grad_q_kernel, grid, sizes, q, k, keep, (lse, grad.contiguous(), made), (h, lse.shape[2]), (), scale)
    return made


def grad_of_k(grad: Tensor, q: Tensor, k: Tensor, keep: Tensor | None, lse: Tensor, scale: float) -> Tensor:
    """Gradient `[B,H,M,D]` float32 of k, from the gradient `[B,H,S,N]` of `forward`'s result `lse`."""
    b, h, n, d = q.shape
    part = part_rows(n, k.shape[2])
    parts = triton.cdiv(n, part)
    made = torch.empty(b, h, parts, k.shape[2], d, device=q.device, dtype=torch.float32)
    sizes = block_sizes(d, 4)  # these multiply in float32 whatever the input is
    grid = (b * h * parts, triton.cdiv(k.shape[2], sizes["BLOCK_M"]))
    arrays, counts = (lse, grad.contiguous(), made), (h, lse.shape[2])
    _launch(grad_k_kernel, grid, sizes, q, k, keep, arrays, counts, (part, parts), scale)
    return made.sum(2)


def _launch(
    kernel: Any,
    grid: tuple[int, int],
    sizes: dict[str, int],
    q: Tensor,
    k: Tensor,
    keep: Tensor | None,
    arrays: tuple[Tensor, ...],
    counts: tuple[int, int],
    pieces: tuple[int, ...],
    scale: float,
) -> None:
    """Start a kernel on q's device; all three take their arguments in this order."""
    held = q if keep is None else _bytes(keep, q)  # without sets the pointer is not read
    shape = (*counts, q.shape[2], k.shape[2], q.shape[3], *pieces)
    with torch.cuda.device_of(q):
        kernel[grid](
            q, k, held, *arrays, *shape, *q.stride(), *k.stride(), scale,
            HAS_KEEP=keep is not None, **sizes, num_stages=1,
        )  # fmt: skip


def _bytes(keep: Tensor, q: Tensor) -> Tensor:
    """The sets as bytes on q's device."""
    return keep.to(q.device).contiguous().view(torch.uint8)
