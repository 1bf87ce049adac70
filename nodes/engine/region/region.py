"""Region: what a phrase refers to in a picture. Masks are 0..1, 1 is the region to change.

Beside it, and importable from here: boxes (`boxes.py`) and the region crop (`crop.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .boxes import Box, box_mask, checked_box, mask_box
from .crop import RegionCrop
from .feather import feather_mask

__all__ = ["Box", "Region", "RegionCrop", "box_mask", "checked_box", "feather_mask", "mask_box"]


@dataclass(frozen=True, eq=False)
class Region:
    """One thing in one picture: the words for it, the style asked for, and where it is.

    box in pixels, mask `[H,W]` in 0..1, score (how sure the finder is), image: index in the batch.
    """

    phrase: str
    box: Box
    mask: Tensor
    style: str = ""
    score: float = 1.0
    image: int = 0

    @classmethod
    def of_mask(cls, phrase: str, mask: Tensor, *, style: str = "", score: float = 1.0, image: int = 0) -> Region:
        """The region of a mask `[H,W]`; its box holds every value above 0. RegionStyleError when there is none."""
        return cls(phrase, mask_box(mask), mask, style, score, image)

    @classmethod
    def of_box(
        cls, phrase: str, box: Box, size: tuple[int, int], *, style: str = "", score: float = 1.0, image: int = 0
    ) -> Region:
        """The region of a box in a picture of size `(H, W)`; its mask is 1 inside the box."""
        box = checked_box(box, size)
        return cls(phrase, box, box_mask(box, size), style, score, image)
