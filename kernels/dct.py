"""Discrete cosine transform and the low-pass spectrum distance (specification: SMS, step 5)."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from ._checks import (
    check_float,
    check_mask,
    check_no_nan,
    check_number,
    check_shapes,
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

    Raises ValueError on shapes that disagree, an empty batch (it has no mean), a threshold that does not fit, or a
    power below 1.
    """
    check_shapes(a=(a, "B C h w"), b=(b, "B C h w"))
    check_float(a=a, b=b)
    require(a.numel() > 0, f"a {list(a.shape)} is empty: there is nothing to take the mean of")
    check_number(power=power)
    require(power >= 1, f"power must be at least 1 (the gradient is infinite at 0 otherwise), got {power}")
    dtype, (a, b) = a.dtype, promote(a, b)
    size = low_pass(dct2(a - b), threshold).abs()
    return (size if power == 1 else size**power).mean().to(dtype)


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
        require(is_number(threshold), f"threshold must be a number or a tensor [B], got {threshold!r}")
        return threshold
    check_mask(threshold=threshold)
    check_no_nan(threshold=threshold)
    # Comparing in half precision would round the frequencies.
    threshold = threshold.to(c.device, torch.float64)
    if threshold.ndim == 0:
        return threshold
    fits = threshold.ndim == 1 and c.ndim >= 3 and threshold.shape[0] == c.shape[0]
    got = f"threshold {list(threshold.shape)}, coefficients {list(c.shape)}"
    require(fits, f"threshold must be a number or one per sample [B], got {got}")
    return threshold.reshape(-1, *[1] * (c.ndim - 1))
