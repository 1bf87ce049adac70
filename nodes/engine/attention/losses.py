"""Losses that make a token group's attention cover its region and nothing else (RegionRoute, arXiv:2602.19254).

Both take maps of any of the four kinds of attention (`supervision.py`). On log-odds (`kernels.token_logodds`) they are
well-posed: a map is 0 where the network prefers no word, so one threshold fits every layer, and both losses are least
only for a map that is high inside the mask and low outside. On probabilities, with the arguments that
`supervision.PUBLISHED` holds, they are the functions of the published code.

A mask without contrast (empty, full, or the same everywhere) says nothing about where to look: its losses are 0 and
have no gradient. Places of a soft border can be left out (`sure_places`), where masks of real pictures are least exact.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..families.token_grid import Size

CONTRAST = 1e-3  # least difference between a mask's highest and lowest value
FLOOR = 1e-6  # share of the mask that every place has in the paper's Focus
DROPPED = -1e4  # logarithms of shares below this belong to places that are left out


def has_contrast(masks: Tensor) -> Tensor:
    """Whether a mask has an inside and an outside: masks `[...,h,w]` in 0..1 -> bool `[...]`."""
    flat = masks.flatten(-2)
    return flat.amax(-1) - flat.amin(-1) > CONTRAST


def sure_places(masks: Tensor, band: float) -> Tensor:
    """Which places of masks `[...,h,w]` in 0..1 count, bool: all but the border, where |m - 0.5| < band.

    band: 0 (all places count) to below 0.5; 0.25 leaves out what is between a quarter and three quarters inside.
    """
    return (masks - 0.5).abs() >= band


def usable_masks(masks: Tensor, band: float = 0.0) -> Tensor:
    """Whether masks have contrast and, with a border left out, still an inside and an outside: bool `[...]`."""
    usable = has_contrast(masks)
    if band:
        sure = sure_places(masks, band)
        usable = usable & (sure & (masks > 0.5)).flatten(-2).any(-1) & (sure & (masks < 0.5)).flatten(-2).any(-1)
    return usable


def focus_loss(maps: Tensor, masks: Tensor, tau: float = 1.0, *, band: float = 0.0) -> Tensor:
    """Kullback-Leibler divergence from the mask to the map, both as distributions over image tokens.

    maps `[B,G,h,w]`, masks `[B,G,h,w]` in 0..1; band: of the border that is no part of the picture (`sure_places`).
    Returns `[B,G]`; 0 for a mask without contrast. Source: RegionRoute, Focus loss, in the direction of its code,
    KL(mask || softmax(map / tau)), which is finite where the mask is 0.
    """
    target, logs = _distributions(maps, masks, tau, band)
    entropy = torch.special.xlogy(target, target)
    return (entropy - target * logs).sum(-1) * usable_masks(masks, band)


def reverse_focus_loss(maps: Tensor, masks: Tensor, tau: float = 1.0, *, band: float = 0.0) -> Tensor:
    """KL(softmax(map / tau) || mask), the direction of RegionRoute's paper; otherwise as `focus_loss`.

    It is infinite wherever the mask is 0, so each place gets `FLOOR` of the mask's whole before it is compared.
    """
    target, logs = _distributions(maps, masks, tau, band)
    kept = (logs > DROPPED).to(logs.dtype)
    floored = (target + FLOOR * kept) / (1 + FLOOR * kept.sum(-1, keepdim=True))
    shares = logs.exp()
    loss = shares * (logs - floored.clamp_min(1e-12).log()) * kept
    return loss.sum(-1) * usable_masks(masks, band)


def _distributions(maps: Tensor, masks: Tensor, tau: float, band: float) -> tuple[Tensor, Tensor]:
    """Shares of the mask, and logarithms of the map's, over the places that count: `[B,G,h*w]` each."""
    flat, scores = masks.flatten(2), maps.flatten(2) / tau
    if band:
        sure = sure_places(flat, band)
        flat, scores = flat * sure, scores.masked_fill(~sure, 2 * DROPPED)
    return flat / flat.sum(-1, keepdim=True).clamp_min(1e-6), F.log_softmax(scores, -1)


def cover_loss(
    maps: Tensor,
    masks: Tensor,
    kappa: float = 1.0,
    *,
    balanced: bool = True,
    center: Tensor | float = 0.0,
    band: float = 0.0,
) -> Tensor:
    """Cross-entropy of sigmoid(kappa * (map - center)) against the mask.

    maps `[B,G,h,w]`, masks `[B,G,h,w]` in 0..1; balanced: weights N/(2n) inside and N/(2(N-n)) outside, so that a small
    region counts as much as its surroundings; center: where the sigmoid is a half, a number or `[B,G,1,1]`; band: of
    the border that is left out (`sure_places`). Returns `[B,G]`; 0 for a mask without contrast. Source: RegionRoute,
    Cover loss; with kappa = alpha, unbalanced, on attention probabilities it is the published one.
    """
    usable = usable_masks(masks, band)[..., None, None]
    sure = sure_places(masks, band).to(maps.dtype) if band else torch.ones_like(masks)
    weight = _balance(masks, sure, usable) if balanced else None
    logits = kappa * (maps - center)
    loss = F.binary_cross_entropy_with_logits(logits, masks, weight=weight, reduction="none")
    return (loss * sure * usable).sum((2, 3)) / sure.sum((2, 3)).clamp_min(1)


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


def _balance(masks: Tensor, sure: Tensor, usable: Tensor) -> Tensor:
    """The weights of both sides, among the places that count."""
    inside = (masks * sure).sum((2, 3), keepdim=True) / sure.sum((2, 3), keepdim=True).clamp_min(1)
    half = 0.5 / torch.where(usable, inside, torch.ones_like(inside))
    rest = 0.5 / torch.where(usable, 1 - inside, torch.ones_like(inside))
    return masks * half + (1 - masks) * rest
