"""Poisson blending on an irregular mask (Perez, Gangnet, Blake 2003), as in R2R's data (arXiv:2508.09746)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import (
    check_float,
    check_mask,
    check_no_nan,
    check_number,
    check_shapes,
    full_precision,
    promote,
    require,
)
from ._multigrid import MaskedLaplacian

_MODES = ("import", "mixed", "average")
# Modes whose guidance is that of one picture, target + share * (source - target).
_SHARE = {"import": 1.0, "average": 0.5}


def poisson_blend_reference(source: Tensor, target: Tensor, mask: Tensor, *, mode: str = "import") -> Tensor:
    """`poisson_blend` by its definition: one dense linear system per sample. For reading and testing small images."""
    dtype, (source, target) = target.dtype, promote(source, target)
    samples = zip(source, target, mask[:, 0] > 0.5, strict=True)
    return torch.stack([_blend_reference(s, t, domain, mode) for s, t, domain in samples]).to(dtype)


def _blend_reference(source: Tensor, target: Tensor, domain: Tensor, mode: str) -> Tensor:
    """One image `[C,H,W]`, domain bool `[H,W]`."""
    pixels = domain.nonzero().tolist()
    if not pixels:
        return target
    number = {(y, x): i for i, (y, x) in enumerate(pixels)}
    matrix, known = target.new_zeros(len(pixels), len(pixels)), []
    for i, (y, x) in enumerate(pixels):
        total = torch.zeros_like(target[:, 0, 0])
        for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= ny < domain.shape[0] and 0 <= nx < domain.shape[1]):
                continue
            total = total + _guide(source[:, y, x] - source[:, ny, nx], target[:, y, x] - target[:, ny, nx], mode)
            matrix[i, i] += 1
            if (ny, nx) in number:
                matrix[i, number[ny, nx]] -= 1
            else:
                total = total + target[:, ny, nx]
        known.append(total)
    rhs = torch.stack(known)
    if len(pixels) == domain.numel():
        # The singular case: add the equation "sum of f = sum of the target" to every row.
        matrix, rhs = matrix + 1, rhs + target.sum((-2, -1))
    values = torch.linalg.solve(matrix, rhs).T
    # Rows of `nonzero` are in reading order, the order in which masked_scatter fills.
    return target.masked_scatter(domain, values)


@full_precision
def poisson_blend(source: Tensor, target: Tensor, mask: Tensor, *, mode: str = "import", tol: float = 1e-4) -> Tensor:
    """Put the differences of `source` into `target` inside a mask, with the target's values at the mask's border.

    source, target `[B,C,H,W]`, mask `[B,1,H,W]`; the domain is mask > 0.5, of any shape. Inside,

        sum over 4-neighbours q of p in the frame:  f_p - f_q = v_pq,      f = target outside the domain

    where v_pq comes from `mode`: "import" the source's difference, "mixed" the larger of both differences in
    magnitude, per edge and channel (the target's on a tie), "average" their mean. Neighbours beyond the frame are
    dropped (no flux). A domain that is the whole frame has no border and fixes f up to a constant: f then has the
    target's mean. Returns `[B,C,H,W]` in target's dtype, not clamped, bit-equal to target outside the domain.

    tol: the residual's norm relative to that of the equations, both as posed and with the target as first guess
    (the smaller), per sample and channel; not below what the accumulating dtype can hold (float32: about 1e-6).
    Cost is linear in the number of pixels of the domain's bounding box. Differentiable in source and target: the
    gradient solves the same system to the same tol, and may be differentiated again.

    Raises ValueError on shapes that disagree, an unknown mode, a tol that is not positive, NaN in the mask, or a source
    or target that is not finite in the domain or beside it (elsewhere nothing is read).
    """
    check_shapes(target=(target, "B C H W"), source=(source, "B C H W"), mask=(mask, "B 1 H W"))
    check_float(source=source, target=target)
    require(mode in _MODES, f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
    check_mask(mask=mask)
    check_no_nan(mask=mask)
    check_number(tol=tol)
    require(tol > 0, f"tol must be positive, got {tol}")
    domain = mask.to(target.device) > 0.5
    if target.numel() == 0:
        return torch.where(domain, source.to(target.dtype), target)
    rows, columns = _bounds(domain)
    s, t = promote(source[..., rows, columns], target[..., rows, columns])
    inside = domain[..., rows, columns]
    rhs = torch.where(inside, _excess(s, t, mode), 0)
    finite = f"source {list(source.shape)} and target {list(target.shape)} must be finite in the mask and beside it"
    require(bool(rhs.isfinite().all()), finite)
    solver = MaskedLaplacian(inside, rhs.dtype)
    with torch.no_grad():
        posed = rhs + solver.apply(torch.where(inside, t, 0))
        scale = torch.minimum(_norm(rhs), _norm(posed))
    guess = solver.mean_free(torch.where(inside, (s - t) * _SHARE[mode], 0)) if mode in _SHARE else None
    # With the guidance's own picture as first guess nothing is left but what lies along the border.
    left = rhs if guess is None else rhs - solver.apply(guess)
    correction = _Solve.apply(left, solver, tol, scale)
    correction = correction if guess is None else correction + guess
    blended = target.clone()
    blended[..., rows, columns] = torch.where(inside, t + correction, t).to(target.dtype)
    return torch.where(domain, blended, target)


def _norm(x: Tensor) -> Tensor:
    """Of every sample and channel, `[B,C,1,1]`; at size 1, since squares of large numbers leave float32's range."""
    size = x.abs().amax((-2, -1), keepdim=True)
    size = torch.where(size == 0, 1, size)
    return torch.linalg.vector_norm(x / size, dim=(-2, -1), keepdim=True) * size


def _bounds(domain: Tensor) -> tuple[slice, slice]:
    """The domain's bounding box over the batch with one pixel of border, where the frame has one."""
    ranges = []
    for axis in (2, 3):
        used = domain.any(dim=3 if axis == 2 else 2).flatten(0, 1).any(0).nonzero().flatten()
        low, high = (int(used[0]), int(used[-1])) if len(used) else (0, 0)
        ranges.append(slice(max(low - 1, 0), min(high + 2, domain.shape[axis])))
    return ranges[0], ranges[1]


def _guide(s: Tensor, t: Tensor, mode: str) -> Tensor:
    """The guidance from the source's and the target's differences."""
    if mode == "import":
        return s
    return (s + t) / 2 if mode == "average" else torch.where(s.abs() > t.abs(), s, t)


def _excess(source: Tensor, target: Tensor, mode: str) -> Tensor:
    """The right-hand side for f - target: per pixel the guidance minus the target's differences, summed.

    Written for the correction, not for f: an image blended into itself gives exact zeros.
    """
    total = torch.zeros_like(target)
    for axis, before, after in ((-2, (0, 0, 1, 0), (0, 0, 0, 1)), (-1, (1, 0), (0, 1))):
        s, t = source.diff(dim=axis), target.diff(dim=axis)
        excess = _guide(s, t, mode) - t
        total = total + F.pad(excess, before) - F.pad(excess, after)
    return total


class _Solve(torch.autograd.Function):
    """u with A u = rhs. A is symmetric and constant, so the gradient is another solve."""

    @staticmethod
    def forward(ctx: Any, rhs: Tensor, solver: MaskedLaplacian, tol: float, scale: Tensor | None) -> Tensor:
        ctx.solver, ctx.tol = solver, tol
        return solver.solve(rhs, tol, scale)

    @staticmethod
    @full_precision
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Solve.apply(grad, ctx.solver, ctx.tol, None), None, None, None
