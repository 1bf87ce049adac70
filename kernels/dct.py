"""Discrete cosine transform and the low-pass spectrum distance (SMS, arXiv:2503.07601, section 3.3)."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import (
    check_float,
    check_mask,
    check_no_nan,
    check_number,
    check_shapes,
    check_tensor,
    compute_dtype,
    full_precision,
    is_number,
    promote,
    require,
)


def dct2_reference(x: Tensor) -> Tensor:
    """`dct2` by its definition, coefficient by coefficient. For reading and testing."""
    dtype, (x,) = x.dtype, promote(x)
    result = torch.empty_like(x)
    for u in range(x.shape[-2]):
        for v in range(x.shape[-1]):
            result[..., u, v] = (x * _wave(u, v, x)).sum((-2, -1))
    return result.to(dtype)


def idct2_reference(x: Tensor) -> Tensor:
    """`idct2` by its definition: the sum of all waves, each times its coefficient. For reading and testing."""
    dtype, (x,) = x.dtype, promote(x)
    result = torch.zeros_like(x)
    for u in range(x.shape[-2]):
        for v in range(x.shape[-1]):
            result = result + x[..., u, v, None, None] * _wave(u, v, x)
    return result.to(dtype)


def _wave(u: int, v: int, x: Tensor) -> Tensor:
    """The cosine wave of frequency (u, v) at the size of x, `[h,w]`, of norm 1."""
    h, w = x.shape[-2:]
    rows = torch.arange(h, dtype=x.dtype, device=x.device)[:, None] + 0.5
    columns = torch.arange(w, dtype=x.dtype, device=x.device)[None] + 0.5
    norm = math.sqrt((1 if u == 0 else 2) / h) * math.sqrt((1 if v == 0 else 2) / w)
    return norm * torch.cos(math.pi * u * rows / h) * torch.cos(math.pi * v * columns / w)


def low_pass_reference(c: Tensor, threshold: float) -> Tensor:
    """`low_pass` by its definition. For reading and testing."""
    result = c.clone()
    for u in range(c.shape[-2]):
        for v in range(c.shape[-1]):
            if u + v > threshold:
                result[..., u, v] = 0
    return result


def spectrum_distance_reference(a: Tensor, b: Tensor, threshold: float | Tensor, *, power: float = 1) -> Tensor:
    """`spectrum_distance` by its definition, sample by sample. For reading and testing."""
    dtype, (a, b) = a.dtype, promote(a, b)
    limits = torch.as_tensor(threshold, dtype=a.dtype).expand(len(a)).tolist()
    terms = [
        low_pass_reference(dct2_reference(d), limit).abs() ** power for d, limit in zip(a - b, limits, strict=True)
    ]
    return torch.stack(terms).mean().to(dtype)


@full_precision
def dct2(x: Tensor) -> Tensor:
    """Orthonormal type-II discrete cosine transform over the last two axes.

    `[...,h,w]` -> `[...,h,w]` in x's dtype, coefficient (0, 0) being the mean times sqrt(h w). Two matrix products:
    at latent sizes cheaper than a fast Fourier transform. Raises ValueError without two non-empty axes.
    """
    rows, columns = _bases(x, "x")
    return (rows @ x.to(rows.dtype) @ columns.T).to(x.dtype)


@full_precision
def idct2(x: Tensor) -> Tensor:
    """The inverse of `dct2` (the type-III transform): `[...,h,w]` coefficients -> `[...,h,w]` values."""
    rows, columns = _bases(x, "x")
    return (rows.T @ x.to(rows.dtype) @ columns).to(x.dtype)


def low_pass(c: Tensor, threshold: float | Tensor) -> Tensor:
    """Set the coefficients (u, v) with u + v > threshold to zero.

    c `[...,h,w]`; threshold: a number, or one per sample `[B]` for c `[B,...,h,w]`. The kept coefficients are
    unchanged. Raises ValueError when c has no two axes or the threshold is no number and does not fit.
    """
    _check_plane(c, "c")
    return torch.where(_frequency(c) > _limit(threshold, c), torch.zeros_like(c), c)


@full_precision
def spectrum_distance(a: Tensor, b: Tensor, threshold: float | Tensor, *, power: float = 1) -> Tensor:
    """Mean over all entries of abs(low_pass(dct2(a - b), threshold)) ** power.

    a, b `[B,C,h,w]`, threshold a number or `[B]`, power >= 1 (1 as in the published code, 2 as in the paper's
    text). Returns a scalar in a's dtype, differentiable in a and b. The zeroed coefficients count in the mean.
    Only the corner of coefficients up to the threshold is computed. A threshold `[B]` waits for a GPU.

    Raises ValueError on shapes that disagree, an empty batch (it has no mean), a threshold that does not fit, or a
    power below 1.
    """
    _check_pair(a, b)
    # At latent sizes every needless call costs as much as a tenth of the products: hence the conditions.
    if power != 1:
        check_number(power=power)
        require(power >= 1, f"power must be at least 1 (the gradient is infinite at 0 otherwise), got {power}")
    dtype, compute = a.dtype, compute_dtype(a, b)
    moved = a - b if a.dtype == b.dtype == compute else a.to(compute) - b.to(compute)
    low = _low_pass_of(a, _cutoffs(threshold, a), compute)
    if power == 1 and moved.requires_grad:
        mean = _LowSpectrum.apply(moved, low)  # type: ignore[no-untyped-call]
    # The coefficients above the cutoff were never computed: they are zeros that count in the mean.
    elif power == 1:
        mean = low.coefficients(moved).abs_().sum().div_(a.numel())
    else:
        mean = (low.coefficients(moved).abs() ** power).sum() / a.numel()
    return mean if dtype == compute else mean.to(dtype)  # type: ignore[no-any-return]


class _LowPass(NamedTuple):
    """What the corner of coefficients up to a cutoff is computed with: waves `[k,h]` and `[l,w]` of the lowest
    frequencies, and 1 where a coefficient counts, 0 elsewhere, `[k,l]` or `[B,1,k,l]` (None: all count)."""

    rows: Tensor
    columns: Tensor
    kept: Tensor | None

    def coefficients(self, x: Tensor) -> Tensor:
        """The corner of dct2(x), `[B,C,k,l]`, with zeros where the cutoff leaves one out; a new tensor."""
        corner = self.rows @ x @ self.columns.T
        return corner if self.kept is None else corner.mul_(self.kept)


class _LowSpectrum(torch.autograd.Function):
    """The mean size of all coefficients of x `[B,C,h,w]`, of which only the low ones count, with its gradient.

    The gradient of a sum of |c| is the sign of c through the transposed transform. Left to autograd, every small
    operation would cost a node of the graph and a pass over all coefficients, most of the time at latent sizes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: _LowPass) -> Tensor:
        corner = low.coefficients(x)
        ctx.save_for_backward(corner)
        ctx.low, ctx.count = low, x.numel()
        return corner.abs().sum().div_(x.numel())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (corner,), low = ctx.saved_tensors, ctx.low
        return low.rows.T @ corner.sgn().mul_(gradient / ctx.count) @ low.columns, None


def _check_pair(a: Tensor, b: Tensor) -> None:
    """ValueError unless a and b are non-empty floating point batches `[B,C,h,w]` of one shape on one device."""
    check_tensor(a=a, b=b)
    # One comparison for the usual case; the long way round only to say what is wrong.
    if (
        a.ndim != 4
        or a.shape != b.shape
        or a.device != b.device
        or not (a.is_floating_point() and b.is_floating_point())
    ):
        check_shapes(a=(a, "B C h w"), b=(b, "B C h w"))
        check_float(a=a, b=b)
    if not a.numel():
        raise ValueError(f"a {list(a.shape)} is empty: there is nothing to take the mean of")


def _cutoffs(threshold: float | Tensor, x: Tensor) -> list[int]:
    """The largest u + v that is kept: one for all of x `[B,C,h,w]`, or one per sample. -1 keeps nothing."""
    if isinstance(threshold, Tensor):
        values = _threshold_values(threshold, x)
    else:
        _check_threshold(threshold)
        values = [threshold]
    highest = x.shape[-2] + x.shape[-1] - 2
    return [math.floor(min(max(value, -1), highest)) for value in values]


def _threshold_values(threshold: Tensor, x: Tensor) -> list[float]:
    """A threshold tensor, one number or one per sample of x, as Python numbers; ValueError for another shape or NaN."""
    check_mask(threshold=threshold)
    _check_count(threshold, x)
    values = threshold.reshape(-1).tolist()
    if any(math.isnan(value) for value in values):
        check_no_nan(threshold=threshold)
    return values


def _low_pass_of(x: Tensor, cutoffs: list[int], dtype: torch.dtype) -> _LowPass:
    """What the low coefficients of x `[B,C,h,w]` are computed with, for one cutoff or one per sample."""
    h, w = x.shape[-2:]
    if len(cutoffs) == 1:
        small = h + w <= 512 and max(h, w) <= 256
        if small:
            return _every_cutoff(h, w, dtype, x.device)[cutoffs[0]]
        return _one_cutoff(h, w, cutoffs[0], dtype, x.device)
    reach = max(cutoffs) + 1
    rows, columns = _basis_for(h, dtype, x.device)[:reach], _basis_for(w, dtype, x.device)[:reach]
    if min(cutoffs) == h + w - 2:
        return _LowPass(rows, columns, None)
    kept = [_kept(cutoff, h, w, len(rows), len(columns), rows) for cutoff in cutoffs]
    return _LowPass(rows, columns, torch.stack(kept)[:, None])


@lru_cache(maxsize=8)
def _every_cutoff(h: int, w: int, dtype: torch.dtype, device: torch.device) -> list[_LowPass]:
    """By cutoff, -1 at the end. Finding the views of one takes as long as one of the products; they are made together,
    so that a process holds no more after a thousand cutoffs than after the first."""
    return [_one_cutoff(h, w, cutoff, dtype, device) for cutoff in (*range(h + w - 1), -1)]


def _one_cutoff(h: int, w: int, cutoff: int, dtype: torch.dtype, device: torch.device) -> _LowPass:
    """Views of the tables that every cutoff shares."""
    with torch.inference_mode(False), torch.no_grad():
        rows, columns = _basis_for(h, dtype, device)[: cutoff + 1], _basis_for(w, dtype, device)[: cutoff + 1]
        kept = None if cutoff == h + w - 2 else _kept(cutoff, h, w, len(rows), len(columns), rows)
        return _LowPass(rows, columns, kept)


def _kept(cutoff: int, h: int, w: int, rows: int, columns: int, like: Tensor) -> Tensor:
    """1 where u + v <= cutoff, 0 elsewhere, `[rows,columns]` for a corner of the `[h,w]` coefficients."""
    # Lowering the cutoff by one moves the triangle up by one row, so every mask is a window of one table.
    first = h + w - 2 - cutoff
    table = (_triangle if h + w <= 512 else _triangle.__wrapped__)(h, w, like.dtype, like.device)
    return table[first : first + rows, :columns]


@lru_cache(maxsize=32)
def _triangle(h: int, w: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 where row + column <= h + w - 2, 0 elsewhere, `[2h+w,w]`."""
    with torch.inference_mode(False), torch.no_grad():
        inside = torch.arange(2 * h + w)[:, None] + torch.arange(w) <= h + w - 2
        return inside.to(dtype).to(device)


def _check_plane(x: Tensor, name: str) -> None:
    check_float(**{name: x})
    ok = x.ndim >= 2 and x.shape[-1] > 0 and x.shape[-2] > 0
    require(ok, f"{name} must be [..., h, w] with h, w >= 1, got {list(x.shape)}")


def _bases(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    _check_plane(x, name)
    dtype = compute_dtype(x)
    return _basis_for(x.shape[-2], dtype, x.device), _basis_for(x.shape[-1], dtype, x.device)


def _basis_for(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """From the cache at the sizes of latents; larger ones would hold memory that nobody can free."""
    return (_cosine_basis if n <= 256 else _cosine_basis.__wrapped__)(n, dtype, device)


@lru_cache(maxsize=32)
def _cosine_basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal matrix `[n,n]` whose row u holds the cosine of frequency u."""
    # An inference tensor in the cache could never be used in a backward pass again.
    with torch.inference_mode(False), torch.no_grad():
        index = torch.arange(n)
        # The phase modulo a full turn, in integers: large products would lose digits in the cosine.
        phase = (index[:, None] * (2 * index + 1)) % (4 * n)
        basis = torch.cos(phase.double() * (math.pi / (2 * n))) * math.sqrt(2 / n)
        basis[0] = math.sqrt(1 / n)
        return basis.to(dtype).to(device)


def _frequency(c: Tensor) -> Tensor:
    """u + v for every coefficient, `[h,w]`."""
    h, w = c.shape[-2:]
    return torch.arange(h, device=c.device)[:, None] + torch.arange(w, device=c.device)


def _limit(threshold: float | Tensor, c: Tensor) -> float | Tensor:
    """The threshold in a form that compares with `[...,h,w]`."""
    if not isinstance(threshold, Tensor):
        _check_threshold(threshold)
        return threshold
    check_mask(threshold=threshold)
    check_no_nan(threshold=threshold)
    _check_count(threshold, c)
    # Comparing in half precision would round the frequencies.
    threshold = threshold.to(c.device, torch.float64)
    return threshold if threshold.ndim == 0 else threshold.reshape(-1, *[1] * (c.ndim - 1))


def _check_threshold(threshold: object) -> None:
    require(is_number(threshold), f"threshold must be a number or a tensor [B], got {threshold!r}")


def _check_count(threshold: Tensor, c: Tensor) -> None:
    """ValueError unless the threshold is one number or one per sample of c `[B,...,h,w]`."""
    fits = threshold.ndim == 0 or (threshold.ndim == 1 and c.ndim >= 3 and threshold.shape[0] == c.shape[0])
    if not fits:
        got = f"threshold {list(threshold.shape)}, coefficients {list(c.shape)}"
        raise ValueError(f"threshold must be a number or one per sample [B], got {got}")
