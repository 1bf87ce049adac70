"""Transparent pictures: what cannot be seen is no background, and is not what statistics are taken of."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.errors import wrong_input
from .small.look import carried_on
from .statistics.areas import FEWEST


def seen_background(mask: Tensor, opacity: Tensor) -> Tensor:
    """How much of the background is seen where, `[B,1,H,W]`, of a mask and an opacity `[B,1,H,W]` in 0..1.

    RegionStyleError when it is fewer than `FEWEST` pixels.
    """
    seen = (1 - mask) * opacity
    for index, each in enumerate(seen):
        if float(each.sum()) < FEWEST:
            got = f"{float(each.sum()):.3g} pixels of picture {index + 1} that are opaque and outside the mask"
            raise wrong_input("composite", got, f"at least {FEWEST:g}", "Give a reference picture.")
    return seen


def unseen_filled(composite: Tensor, mask: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor]:
    """A composite `[B,3,H,W]` whose invisible pixels carry the visible background's colours on, and its mask there."""
    filled = carried_on(composite, (1 - mask) * opacity)
    return torch.where(opacity > 0, composite, filled), mask * (opacity > 0)


def laid_over(composite: Tensor, background: Tensor, mask: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `lay_into` made, on a background that is not opaque: colours, the foreground's share of them, opacity.

    All `[B,*,H,W]` in 0..1; opacity: the background's. Alpha compositing (Porter and Duff, Compositing Digital Images,
    1984), operator over, colours not premultiplied.
    """
    over = mask + opacity * (1 - mask)
    share = torch.where(mask > 0, mask / over.clamp_min(torch.finfo(mask.dtype).tiny), 0)
    colours = background + (composite - background) / over.clamp_min(torch.finfo(mask.dtype).tiny)
    return torch.where(mask > 0, colours.clamp(0, 1), composite), share, over
