"""Putting a harmonised foreground back: exact outside the mask, with a seam as soft as asked for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .base import check_picture, check_region


def paste_back(composite: Tensor, harmonized: Tensor, mask: Tensor, *, seam: float = 0.0) -> Tensor:
    """The harmonised picture where the mask is, the composite elsewhere, both `[B,3,H,W]` in 0..1; mask `[B,1,H,W]`.

    A soft mask mixes linearly. seam: pixels over which the change fades in from the mask's border inwards, so that no
    pixel outside the mask ever changes; 0: as the mask is. Where the mask is exactly 0 the result is bit-equal to the
    composite, whatever the harmonised picture holds there. RegionStyleError for shapes or values that do not fit.
    """
    check_picture(composite, "composite")
    check_region(mask, composite, "mask")
    if harmonized.shape != composite.shape:
        raise wrong_input("harmonized", list(harmonized.shape), str(list(composite.shape)), "Keep the picture's size.")
    weight = inner_seam(mask, seam).to(composite)
    mixed = torch.lerp(composite, harmonized.to(composite), weight.expand_as(composite))
    return torch.where(weight > 0, mixed.clamp(0, 1), composite)


def inner_seam(mask: Tensor, seam: float) -> Tensor:
    """A mask `[B,1,H,W]` that rises from its border inwards over about `seam` pixels; nowhere above what it was.

    The mean of the mask over a window of radius `seam`, stretched so that the border's half becomes 0. Beyond the
    picture counts as inside: a foreground cut by the frame has no seam there.
    """
    if not 0 <= seam < float("inf"):
        raise wrong_input("seam", seam, "pixels, 0 or more", "0 leaves the mask as it is.")
    radius = min(round(seam), min(mask.shape[-2:]) - 1)
    if radius < 1:
        return mask
    rows = _running_mean(mask.float(), radius)
    mean = _running_mean(rows.mT, radius).mT
    return torch.minimum(mask, (2 * mean - 1).clamp(0, 1).to(mask))


def _running_mean(x: Tensor, radius: int) -> Tensor:
    """Means over 2 radius + 1 pixels of a row, the border's value going on beyond it."""
    padded = F.pad(x, (radius, radius, 0, 0), mode="replicate")
    total = F.pad(padded.double().cumsum(-1), (1, 0))
    width = 2 * radius + 1
    return ((total[..., width:] - total[..., :-width]) / width).to(x.dtype)
