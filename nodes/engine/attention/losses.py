"""Losses that make a token group's attention cover its region and nothing else (RegionRoute, arXiv:2602.19254).

Both take maps of any of the four kinds of attention (`supervision.py`). On log-odds (`kernels.token_logodds`) they are
well-posed: a map is 0 where the network prefers no word, so one threshold fits every layer, and both losses are least
only for a map that is high inside the mask and low outside. On probabilities, with the arguments that
`supervision.PUBLISHED` holds, they are the functions of the published code.

A mask without contrast (empty, full, or the same everywhere) says nothing about where to look: its losses are 0 and
have no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..families.token_grid import Size

CONTRAST = 1e-3  # least difference between a mask's highest and lowest value


def has_contrast(masks: Tensor) -> Tensor:
    """Whether a mask has an inside and an outside: masks `[...,h,w]` in 0..1 -> bool `[...]`."""
    flat = masks.flatten(-2)
    return flat.amax(-1) - flat.amin(-1) > CONTRAST


def focus_loss(maps: Tensor, masks: Tensor, tau: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence from the mask to the map, both as distributions over image tokens.

    maps `[B,G,h,w]`, masks `[B,G,h,w]` in 0..1. Returns `[B,G]`; 0 for a mask without contrast. Source: RegionRoute,
    Focus loss, in the direction of its code, KL(mask || softmax(map / tau)), which is finite where the mask is 0.
    """
    flat, logs = masks.flatten(2), F.log_softmax(maps.flatten(2) / tau, -1)
    target = flat / flat.sum(-1, keepdim=True).clamp_min(1e-6)
    entropy = torch.special.xlogy(target, target)
    return (entropy - target * logs).sum(-1) * has_contrast(masks)


def cover_loss(
    maps: Tensor, masks: Tensor, kappa: float = 1.0, *, balanced: bool = True, center: Tensor | float = 0.0
) -> Tensor:
    """Cross-entropy of sigmoid(kappa * (map - center)) against the mask.

    maps `[B,G,h,w]`, masks `[B,G,h,w]` in 0..1; balanced: weights N/(2n) inside and N/(2(N-n)) outside, so that a small
    region counts as much as its surroundings; center: where the sigmoid is a half, a number or `[B,G,1,1]`. Returns
    `[B,G]`; 0 for a mask without contrast. Source: RegionRoute, Cover loss; with kappa = alpha, unbalanced, on
    attention probabilities it is the published one.
    """
    usable = has_contrast(masks)[..., None, None]
    weight = _balance(masks, usable) if balanced else None
    logits = kappa * (maps - center)
    loss = F.binary_cross_entropy_with_logits(logits, masks, weight=weight, reduction="none")
    return (loss * usable).mean((2, 3))


def map_medians(maps: Tensor) -> Tensor:
    """The median over places of each map, `[B,G,h,w]` -> `[B,G,1,1]`, without a gradient: a center for Cover."""
    return maps.detach().flatten(2).median(-1).values[..., None, None]


def masks_on_grid(masks: Tensor, size: Size) -> Tensor:
    """Masks `[B,G,H,W]` in 0..1 on a grid of image tokens `[B,G,h,w]`: the share of each cell that is inside.

    A thing so thin that no cell is half inside keeps its largest value in each cell, or it would all but vanish.
    """
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    area = F.interpolate(masks, size, mode="area")
    peak = F.adaptive_max_pool2d(masks, size)
    thin = (area.flatten(2).amax(-1) < 0.5) & (masks.flatten(2).amax(-1) >= 0.5)
    return torch.where(thin[..., None, None], peak, area)


def _balance(masks: Tensor, usable: Tensor) -> Tensor:
    """The weights of both sides."""
    inside = masks.mean((2, 3), keepdim=True)
    half = 0.5 / torch.where(usable, inside, torch.ones_like(inside))
    rest = 0.5 / torch.where(usable, 1 - inside, torch.ones_like(inside))
    return masks * half + (1 - masks) * rest
