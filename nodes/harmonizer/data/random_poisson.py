"""Random Poisson Blending (R2R, arXiv:2508.09746): a real picture's foreground takes the light of a random place.

The authors released no generator; this is what their text and the prototype in their code agree on: a donor picture, a
random place in it for the foreground's box, the Poisson equation in the mask grown by one pixel with the foreground's
own Laplacian and the donor's values on the border, cut to 0..1, mixed with the untouched foreground, put back at its
place. The real picture is the truth.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ....kernels import poisson_blend
from ...engine.errors import wrong_input
from ..base import check_picture, check_region

FEWEST = 10  # pixels of foreground; the prototype takes the whole picture's box below that, here it is an error


def random_poisson_blend(
    picture: Tensor, mask: Tensor, donor: Tensor, random: torch.Generator, *, strength: float = 0.75
) -> Tensor:
    """One composite `[1,3,H,W]` of a real picture `[1,3,H,W]` and a mask `[1,1,H,W]`, above 0.5 = foreground.

    donor `[1,3,h,w]`: the picture whose light the foreground takes; enlarged where it is smaller than the foreground's
    box. strength: the paper's alpha. Outside the mask the composite is bit-equal to the picture.
    RegionStyleError for a mask of fewer than `FEWEST` pixels.
    """
    check_picture(picture, "picture")
    check_region(mask, picture, "mask")
    check_picture(donor, "donor")
    inside = mask > 0.5
    if int(inside.sum()) < FEWEST:
        raise wrong_input("mask", f"{int(inside.sum())} pixels", f"at least {FEWEST}", "Mark a larger foreground.")
    grown = F.max_pool2d(inside.to(picture), 3, 1, 1)
    rows, columns = _box(grown)
    source = picture[..., rows, columns]
    clone = poisson_blend(source, _random_piece(donor, source, random), grown[..., rows, columns]).clamp(0, 1)
    composite = picture.clone()
    mixed = strength * clone + (1 - strength) * source
    composite[..., rows, columns] = torch.where(inside[..., rows, columns], mixed, source)
    return composite


def _box(grown: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the grown mask `[1,1,H,W]`, with a pixel more where the picture has one: the border."""
    slices = []
    for axis in (2, 3):
        used = grown.amax(5 - axis).flatten().nonzero().flatten()
        slices.append(slice(max(0, int(used[0]) - 1), min(grown.shape[axis], int(used[-1]) + 2)))
    return slices[0], slices[1]


def _random_piece(donor: Tensor, like: Tensor, random: torch.Generator) -> Tensor:
    """A piece of the donor of the size of `like`, from a place drawn evenly."""
    height, width = like.shape[-2:]
    scale = max(height / donor.shape[-2], width / donor.shape[-1])
    if scale > 1:
        size = [max(n, round(m * scale)) for n, m in zip((height, width), donor.shape[-2:], strict=True)]
        donor = F.interpolate(donor, size, mode="bilinear")
    top, left = (
        int(torch.randint(n - m + 1, (1,), generator=random))
        for n, m in zip(donor.shape[-2:], (height, width), strict=True)
    )
    return donor[..., top : top + height, left : left + width].to(like)
