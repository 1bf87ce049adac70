"""Bringing a coarse map to the picture's edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def _mean(x: Tensor, radius: int) -> Tensor:
    """Mean over a square window, over the part of it inside the frame; `[B,C,H,W]`."""
    side = 2 * radius + 1
    return F.avg_pool2d(x, side, 1, radius, count_include_pad=False)


def guided_filter(values: Tensor, guide: Tensor, radius: int, eps: float = 1e-3) -> Tensor:
    """The map that is closest to `values` and, in every window, linear in the guide's colours.

    values `[1,1,H,W]`, guide `[1,3,H,W]` in 0..1, radius of the windows in pixels, eps: how flat a window must be to
    be smoothed instead. Returns `[1,1,H,W]` in values' units. Source: He, Sun and Tang, Guided Image Filtering,
    TPAMI 2013, equations 5, 6 and 19 (colour guide).
    """
    guide, values = guide.float(), values.float()
    mean_i, mean_p = _mean(guide, radius), _mean(values, radius)
    products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
    covariance = _mean(products, radius).unflatten(1, (3, 3)) - mean_i[:, :, None] * mean_i[:, None]
    cross = _mean(guide * values, radius) - mean_i * mean_p
    matrix = covariance.permute(0, 3, 4, 1, 2) + eps * torch.eye(3, device=guide.device)
    a = torch.linalg.solve(matrix, cross.permute(0, 2, 3, 1)[..., None])[..., 0].permute(0, 3, 1, 2)
    b = mean_p - (a * mean_i).sum(1, keepdim=True)
    return (_mean(a, radius) * guide).sum(1, keepdim=True) + _mean(b, radius)
