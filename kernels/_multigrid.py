"""Solve the five-point Laplace equation on a pixel mask in time linear in the number of pixels.

Conjugate gradients, preconditioned by one multigrid V-cycle: a red-black Gauss-Seidel sweep on the finest grid
(`_red_black.py`), damped Jacobi below, before and after. The coarse operators are Galerkin products
P^T A P with bilinear P cut off at the mask, so holes, thin bridges and frame edges are seen on every level without
special cases (Trottenberg, Oosterlee, Schueller: Multigrid, 2001, sections 2.7 and 7.7).
"""

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ._red_black import RedBlackGrid

_COARSEST = 64  # pixels: a dense inverse of this size costs nothing
_FEW = 10_000  # pixels: up to here three large operations are quicker than nine small ones
_MAX_ITERATIONS = 100  # a safety net: about 10 reach 1e-6


@dataclass(frozen=True)
class _Level:
    """One coarse grid: the operator's stencil `[B,9,h,w]` (row-major neighbours) and the 1/D `[B,1,h,w]` of a sweep."""

    stencil: Tensor
    inverse_diagonal: Tensor


class MaskedLaplacian:
    """The operator A of one mask, and its inverse.

    (A u)_p = sum of u_p - u_q over the 4-neighbours q of p that lie in the frame, for p in the mask, with u = 0
    outside the mask. Where the mask is the whole frame, A is singular: its constants are projected out, so `solve`
    returns the solution of mean 0 (for a right-hand side made mean-free in the same way).
    """

    def __init__(self, inside: Tensor, dtype: torch.dtype) -> None:
        """inside: bool `[B,1,h,w]`."""
        self.full = inside.flatten(1).all(1)[:, None, None, None]
        self.any_full = bool(self.full.any())
        self.finest = RedBlackGrid(inside.to(dtype))
        stencil = self.finest.coarse_stencil()
        self.levels = [_Level(stencil, _inverse_diagonal(stencil))]
        while self.levels[-1].stencil[0, 0].numel() > _COARSEST:
            self.levels.append(self._coarsen())
        self.coarsest_inverse = self._invert_coarsest()

    def apply(self, u: Tensor) -> Tensor:
        """A u for u `[B,C,h,w]` that is 0 outside the mask."""
        return self.finest.join(self.finest.apply(self.finest.split(u)))

    def mean_free(self, u: Tensor) -> Tensor:
        """u `[B,C,h,w]`, less its mean where the mask is the whole frame, as every solution there is."""
        return torch.where(self.full, u - u.mean((-2, -1), keepdim=True), u) if self.any_full else u

    def solve(self, rhs: Tensor, tol: float, goal_norm: Tensor | None = None) -> Tensor:
        """u with norm(rhs - A u) <= tol * goal_norm (default: norm of rhs), per sample and channel `[B,C,h,w]`.

        NaN where a channel of rhs is not finite.
        """
        # At size 1, because squares of gradients as small as 1e-20 would be lost in float32.
        size = rhs.abs().amax((-2, -1), keepdim=True)
        size = torch.where(size == 0, 1, size)
        scaled = self.finest.split(rhs / size)
        return size * self.finest.join(self._solve_scaled(scaled, tol, None if goal_norm is None else goal_norm / size))

    def _solve_scaled(self, rhs: Tensor, tol: float, goal_norm: Tensor | None) -> Tensor:
        """`solve` by conjugate gradients, for right-hand sides `[4,B,C,h,w]` whose largest entry is 1."""
        r = self._project(rhs * self.finest.inside)
        u, z = torch.zeros_like(r), self._cycle(r)
        p, rz, norm = z, _dot(r, z), _norm(r)
        # A norm(rhs) of 1e-7 is what rounding leaves of any right-hand side: never ask for less.
        goal = torch.maximum(tol * (norm if goal_norm is None else goal_norm), torch.finfo(r.dtype).eps * norm)
        # r^T M r estimates the error's energy. Smooth errors hide in small residuals: ask for half a digit more here.
        energy_goal = (0.3 * goal / norm.clamp_min(torch.finfo(r.dtype).tiny)) ** 2 * rz
        for _ in range(_MAX_ITERATIONS):
            active = (norm > goal) | (rz > energy_goal)
            if not bool(active.any()):
                break
            q = self.finest.apply(p)
            step = torch.where(active, _ratio(rz, _dot(p, q)), 0)
            u.addcmul_(step, p)
            r = torch.addcmul(r, step, q, value=-1)
            z, norm = self._cycle(r), _norm(r)
            rz, previous = _dot(r, z), rz
            p = torch.addcmul(z, _ratio(rz, previous), p)
        else:
            warnings.warn(f"Poisson solve stopped after {_MAX_ITERATIONS} iterations above tol={tol}", stacklevel=2)
        return u

    def _project(self, x: Tensor) -> Tensor:
        """Take the constants out where the mask is the whole frame, of `[4,B,C,h,w]`."""
        if not self.any_full:
            return x
        mean = x.sum((0, -2, -1), keepdim=True) / (self.finest.height * self.finest.width)
        return torch.where(self.full, (x - mean) * self.finest.inside, x)

    def _precondition(self, r: Tensor) -> Tensor:
        """An approximation of A^-1 r `[B,C,h,w]`: what one cycle makes of it."""
        return self.finest.join(self._cycle(self.finest.split(r)))

    def _cycle(self, r: Tensor) -> Tensor:
        """One V-cycle from a zero guess `[4,B,C,h,w]`: a symmetric approximation of the inverse."""
        u, left = self.finest.descend(r)
        return self._project(self.finest.ascend(u, r, self._coarse_cycle(0, left)))

    def _coarse_cycle(self, depth: int, r: Tensor) -> Tensor:
        """The part of a V-cycle below the finest grid, one damped Jacobi sweep before and after."""
        if depth == len(self.levels) - 1:
            return (r.flatten(2) @ self.coarsest_inverse).view_as(r)
        level = self.levels[depth]
        u = level.inverse_diagonal * r
        u += self._prolong(depth, self._coarse_cycle(depth + 1, self._restrict(r - self._apply(depth, u))))
        return u.addcmul_(level.inverse_diagonal, r - self._apply(depth, u))

    def _apply(self, depth: int, u: Tensor) -> Tensor:
        return _nine_point(self.levels[depth].stencil, u)

    def _prolong(self, depth: int, coarse: Tensor) -> Tensor:
        """From coarse grid depth + 1 to coarse grid depth."""
        h, w = self.levels[depth].stencil.shape[-2:]
        return _interpolate(_interpolate(coarse, h, -2), w, -1)

    def _restrict(self, fine: Tensor) -> Tensor:
        """The transpose of `_prolong`."""
        return _collect(_collect(fine, -2), -1)

    def _coarsen(self) -> _Level:
        """The Galerkin product of the last level."""
        stencil = self.levels[-1].stencil
        halved = all(_coarse_size(n) < n for n in stencil.shape[-2:])
        coarse = _galerkin(stencil) if halved else self._probed()
        return _Level(coarse, _inverse_diagonal(coarse))

    def _probed(self) -> Tensor:
        """The Galerkin product where an axis is too short to be halved.

        Read off by applying it to nine colourings: coarse points three apart share no neighbour.
        """
        depth, (h, w) = len(self.levels) - 1, self.levels[-1].stencil.shape[-2:]
        h, w = _coarse_size(h), _coarse_size(w)
        row, column = (torch.arange(n, device=self.full.device) for n in (h, w))
        colour = (row % 3)[:, None] * 3 + (column % 3)
        probe = (colour == torch.arange(9, device=colour.device).view(9, 1, 1)).to(self.levels[-1].stencil)
        fine = self._prolong(depth, probe.expand(len(self.full), -1, -1, -1))
        response = self._restrict(self._apply(depth, fine))
        neighbour = [((row + dy) % 3)[:, None] * 3 + (column + dx) % 3 for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        return response.gather(1, torch.stack(neighbour).expand_as(response))

    def _invert_coarsest(self) -> Tensor:
        """The dense pseudo-inverse `[B,n,n]` of the last level.

        Pseudo, because points outside the mask have no equation, basis functions cut off by the mask may coincide,
        and a mask that is the whole frame leaves the constants free.
        """
        (b, _, h, w), depth = self.levels[-1].stencil.shape, len(self.levels) - 1
        eye = torch.eye(h * w, dtype=self.levels[-1].stencil.dtype, device=self.full.device)
        points = eye.view(1, h * w, h, w).expand(b, -1, -1, -1)
        # In float64: of matrices with many equal eigenvalues, LAPACK's float32 solver fails to converge now and then.
        matrix, dtype = self._apply(depth, points).flatten(2), self.levels[-1].stencil.dtype
        exact = matrix.double()
        return torch.linalg.pinv(exact, rtol=torch.finfo(dtype).eps * h * w, hermitian=True).to(dtype)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Per sample and channel of `[4,B,C,h,w]`: `[B,C,1,1]`."""
    return (a * b).sum((0, -2, -1), keepdim=True)[0]


def _norm(a: Tensor) -> Tensor:
    # First over what lies side by side: over three axes at once takes six times as long.
    parts = torch.linalg.vector_norm(a.flatten(-2), dim=-1)
    return torch.linalg.vector_norm(parts, dim=0)[..., None, None]


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where a solved system has left nothing to divide by."""
    return torch.where(b > 0, a / torch.where(b > 0, b, 1), 0)


def _nine_point(stencil: Tensor, u: Tensor) -> Tensor:
    (h, w), padded = u.shape[-2:], F.pad(u, [1] * 4)
    if h * w <= _FEW:
        windows = padded.unfold(2, h, 1).unfold(3, w, 1)  # [B,C,3,3,h,w]
        return (stencil.unflatten(1, (3, 3))[:, None] * windows).sum((2, 3))
    result = stencil[:, 4:5] * u
    for index in (0, 1, 2, 3, 5, 6, 7, 8):
        dy, dx = divmod(index, 3)
        result.addcmul_(stencil[:, index : index + 1], padded[..., dy : dy + h, dx : dx + w])
    return result


def _galerkin(stencil: Tensor) -> Tensor:
    """P^T A P of a stencil `[B,9,h,w]` for bilinear P that halves both axes, as one convolution.

    The coarse stencil at I is a fixed sum over the fine points 2 I + d and their nine entries.
    """
    axis = torch.zeros(3, 3, 3)  # coarse neighbour, entry, d
    for d in (-1, 0, 1):
        for entry in (-1, 0, 1):
            for neighbour in (-1, 0, 1):
                reach = max(0.0, 1 - abs(d + entry - 2 * neighbour) / 2)
                axis[neighbour + 1, entry + 1, d + 1] = (1 - abs(d) / 2) * reach
    kernel = torch.einsum("aed,bfg->abefdg", axis, axis).reshape(9, 9, 3, 3)
    return F.conv2d(F.pad(stencil, (1, 2, 1, 2)), kernel.to(stencil), stride=2)


def _inverse_diagonal(stencil: Tensor) -> Tensor:
    """1/D with D half the absolute row sum: the diagonal of an inner pixel, and D^-1 A <= 2 whatever the mask."""
    size = stencil.abs().sum(1, keepdim=True) / 2
    return torch.where(size > 0, 1 / torch.where(size > 0, size, 1), 0)


def _coarse_size(n: int) -> int:
    """Every second point, and one beyond the end for even n, so that the weights of each fine point sum to 1."""
    return n if n <= 4 else n // 2 + 1


def _interpolate(coarse: Tensor, n: int, axis: int) -> Tensor:
    """Linear interpolation along one axis to n points; short axes stay as they are."""
    if coarse.shape[axis] == n:
        return coarse
    m = coarse.shape[axis]
    left, right = coarse.narrow(axis, 0, m - 1), coarse.narrow(axis, 1, m - 1)
    fine = coarse.new_empty([n if i == axis % coarse.ndim else s for i, s in enumerate(coarse.shape)])
    _every_second(fine, axis, 0).copy_(coarse.narrow(axis, 0, (n + 1) // 2))
    _every_second(fine, axis, 1).copy_((left + right).mul_(0.5))
    return fine


def _collect(fine: Tensor, axis: int) -> Tensor:
    """The transpose of `_interpolate`."""
    n = fine.shape[axis]
    m = _coarse_size(n)
    if m == n:
        return fine
    coarse = fine.new_empty([m if i == axis % fine.ndim else s for i, s in enumerate(fine.shape)])
    even, odd = _every_second(fine, axis, 0), _every_second(fine, axis, 1)
    coarse.narrow(axis, 0, even.shape[axis]).copy_(even)
    coarse.narrow(axis, even.shape[axis], m - even.shape[axis]).zero_()
    coarse.narrow(axis, 0, odd.shape[axis]).add_(odd, alpha=0.5)
    coarse.narrow(axis, 1, odd.shape[axis]).add_(odd, alpha=0.5)
    return coarse


def _every_second(x: Tensor, axis: int, start: int) -> Tensor:
    return x[..., start::2, :] if axis == -2 else x[..., start::2]
