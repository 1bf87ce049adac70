"""Three ways to give colours other statistics: each takes two areas and returns a map of colours `[N,3]` -> `[N,3]`.

Means are always matched. Where an area is of one colour it has no spread to match, and only the mean moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .areas import Area
from .lab import lab_from_rgb, rgb_from_lab

ColourMap = Callable[[Tensor], Tensor]
FLAT = 1e-3  # standard deviation in 0..1 units below which a channel counts as of one colour
FLAT_LAB = 0.1


def reinhard(source: Area, goal: Area) -> ColourMap:
    """Mean and standard deviation of every channel in CIELAB (Reinhard et al., Color Transfer between Images, 2001)."""
    a, b = (Area(lab_from_rgb(area.colours), area.weights) for area in (source, goal))
    scale = _scale(a.deviation(), b.deviation(), FLAT_LAB)
    return lambda colours: rgb_from_lab((lab_from_rgb(colours) - a.mean()) * scale + b.mean())


def _scale(source: Tensor, goal: Tensor, flat: float) -> Tensor:
    """goal / source, 1 where one of them is flat."""
    return torch.where((source > flat) & (goal > flat), goal / source.clamp_min(flat), 1)


def monge_kantorovich(source: Area, goal: Area) -> ColourMap:
    """Mean and covariance in RGB by the linear map that moves colours least (Pitie and Kokaram, 2007):
    S^-1/2 (S^1/2 G S^1/2)^1/2 S^-1/2, with S and G the covariances."""
    s, g = source.covariance(), goal.covariance()
    if min(float(s.diagonal().max()), float(g.diagonal().max())) < FLAT**2:
        return lambda colours: colours - source.mean() + goal.mean()
    # A direction without spread cannot be stretched; both get the same trace of one.
    floor = FLAT**2 * torch.eye(3, dtype=s.dtype, device=s.device)
    s, g = s + floor, g + floor
    root, inverse = _power(s, 0.5), _power(s, -0.5)
    transport = inverse @ _power(root @ g @ root, 0.5) @ inverse
    return lambda colours: (colours - source.mean()) @ transport.T + goal.mean()


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Of a symmetric positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(1e-12) ** exponent) @ vectors.T


def histogram(source: Area, goal: Area) -> ColourMap:
    """The whole distribution of every channel in RGB (Gonzalez and Woods, Digital Image Processing, histogram
    specification), as scikit-image's match_histograms, with weights."""
    curves = [_curve(source.colours[:, c], source.weights, goal.colours[:, c], goal.weights) for c in range(3)]
    return lambda colours: torch.stack([interpolated(colours[:, c], *curve) for c, curve in enumerate(curves)], 1)


def _curve(values: Tensor, weights: Tensor, goal: Tensor, goal_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Source values and what becomes of them."""
    knots, reached = _distribution(values, weights)
    levels, wanted = _distribution(goal, goal_weights)
    if float(knots[-1] - knots[0]) < FLAT or float(levels[-1] - levels[0]) < FLAT:
        shift = goal_weights @ goal - weights @ values
        return torch.stack([knots[0], knots[0] + 1]), torch.stack([knots[0] + shift, knots[0] + 1 + shift])
    return knots, interpolated(reached, wanted, levels)


def _distribution(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The different values and the share of weight up to each."""
    knots, index = values.unique(return_inverse=True)
    return knots, torch.zeros_like(knots).index_add_(0, index, weights).cumsum(0)


def interpolated(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation between rising knots, their ends beyond them, as numpy's interp."""
    if len(knots) == 1:
        return values.expand_as(x).clone()
    upper = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    low, high = knots[upper - 1], knots[upper]
    share = ((x - low) / (high - low).clamp_min(torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return values[upper - 1] + share * (values[upper] - values[upper - 1])


METHODS: Mapping[str, Callable[[Area, Area], ColourMap]] = {
    "reinhard": reinhard,
    "mkl": monge_kantorovich,
    "histogram": histogram,
}
