"""Putting a harmonised foreground back: exact outside the mask, with a seam as soft as asked for."""

from __future__ import annotations

import torch
from torch import Tensor

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
    """A mask `[B,1,H,W]` that rises from its border inwards over `seam` pixels; nowhere above what it was.

    A foreground without a place that far inside rises up to its middle, so that it changes at all. Beyond the picture
    counts as inside: a foreground cut by the frame has no seam there.
    """
    if not 0 <= seam < float("inf"):
        raise wrong_input("seam", seam, "pixels, 0 or more", "0 leaves the mask as it is.")
    if round(seam) < 1:
        return mask
    return torch.minimum(mask, torch.stack([_risen(each[0] > 0, round(seam)) for each in mask])[:, None].to(mask))


def _risen(inside: Tensor, seam: int) -> Tensor:
    """Of one mask `[H,W]`: the distance to the outside in steps of 1 / (seam + 1), at most 1."""
    from scipy.ndimage import distance_transform_edt

    if bool(inside.all()):
        return torch.ones(inside.shape)
    distance = torch.from_numpy(distance_transform_edt(inside.cpu().numpy())).float()
    return (distance / min(seam + 1, max(1.0, float(distance.max())))).clamp_max(1)
