"""Losses that make a token group's attention cover its region and nothing else (RegionRoute, well-posed form).

Both act on log-odds maps (`kernels.token_logodds`): a map is 0 where the network prefers no word, so one threshold
fits every layer, and both losses are least only for a map that is high inside the mask and low outside.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def focus_loss(maps: Tensor, masks: Tensor, tau: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence from the mask to the map, both as distributions over image tokens.

    maps `[B,G,h,w]` log-odds, masks `[B,G,h,w]` in 0..1. Returns `[B,G]`; 0 where a mask is empty or full, since
    there is no contrast to learn: nowhere to point at, or nothing to tell the region from. Source: RegionRoute,
    arXiv:2602.19254, Focus loss, on log-odds.
    """
    flat, logs = masks.flatten(2), F.log_softmax(maps.flatten(2) / tau, -1)
    target = flat / flat.sum(-1, keepdim=True).clamp_min(1e-6)
    entropy = torch.special.xlogy(target, target)
    usable = (flat > 0).any(-1) & (flat < 1).any(-1)
    return (entropy - target * logs).sum(-1) * usable


def cover_loss(maps: Tensor, masks: Tensor, kappa: float = 1.0) -> Tensor:
    """Class-balanced cross-entropy of sigmoid(kappa * log-odds) against the mask.

    maps `[B,G,h,w]`, masks `[B,G,h,w]` in 0..1. Returns `[B,G]`; 0 where a mask is empty or full, since there is no
    contrast to learn. Source: RegionRoute, arXiv:2602.19254, Cover loss, with the balance w = N/(2n)
    inside, N/(2(N-n)) outside.
    """
    inside = masks.mean((2, 3), keepdim=True)
    usable = (inside > 1e-3) & (inside < 1 - 1e-3)
    half = 0.5 / torch.where(usable, inside, torch.ones_like(inside))
    rest = 0.5 / torch.where(usable, 1 - inside, torch.ones_like(inside))
    weight = masks * half + (1 - masks) * rest
    loss = F.binary_cross_entropy_with_logits(kappa * maps, masks, weight=weight, reduction="none")
    return (loss * usable).mean((2, 3))
