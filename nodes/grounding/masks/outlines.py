"""How the thing in a box is outlined: the box itself, GrabCut, or Segment Anything; and what is said about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.region.region import Region
from ...engine.region.regions import Regions
from ..settings import OUTLINES
from .grabcut import grabcut_mask, has_opencv

BOX, GRABCUT, SAM = OUTLINES
NO_OPENCV = "the whole box: OpenCV is not installed (pip install opencv-python-headless, or regionstyle[photo])"
NOT_TOLD_APART = "the whole box, since GrabCut found nothing, or everything, in it"


@dataclass(frozen=True, eq=False)
class Outlined:
    """regions: their masks outlined; said: by what; notices: boxes that stayed boxes though more was asked for."""

    regions: Regions
    said: str
    notices: tuple[str, ...] = ()


def usual_outline(sam: bool) -> str:
    """What outlines a box where nothing is chosen: SAM where there is one, else GrabCut."""
    return SAM if sam else GRABCUT


def check_outline(outline: str, sam: bool) -> None:
    """RegionStyleError for no outline of this name, and for SAM without a network."""
    if outline not in OUTLINES:
        raise wrong_input("outline", repr(outline), ", ".join(OUTLINES), "Choose one of these.")
    if outline == SAM and not sam:
        accepts, remedy = "a Segment Anything network for it", "Give one, or choose grabcut or box."
        raise wrong_input("outline", "'sam' without a network", accepts, remedy)


def outline_boxes(images: Tensor, regions: Regions, outline: str, required: bool = True) -> Outlined:
    """Regions of images `[B,3,H,W]` in 0..1, each with the mask of the thing in its box, by "box" or "grabcut".

    A region that was not found stays as it is. required: whether a missing OpenCV is an error; otherwise, as where
    GrabCut can tell nothing apart, the mask is the box and a notice says so.
    """
    if outline == BOX:
        return Outlined(regions.with_items(_full(region) for region in regions), "box")
    if not required and not has_opencv():
        return Outlined(regions.with_items(_full(region) for region in regions), "box", (NO_OPENCV,))
    items, notices = [], []
    for region in regions:
        cut = grabcut_mask(images[region.image], region.box) if _found(region) else None
        # its box stays the one that was given
        items.append(_full(region) if cut is None else replace(region, mask=cut.to(region.mask)))
        notices += [f"{region.phrase}: {NOT_TOLD_APART}"] if _found(region) and cut is None else []
    return Outlined(regions.with_items(items), _said(items, notices), tuple(dict.fromkeys(notices)))


def _said(items: Iterable[Region], notices: list[str]) -> str:
    return "GrabCut" if len(notices) < len(list(items)) else "box"


def _found(region: Region) -> bool:
    return bool((region.mask > 0).any())


def _full(region: Region) -> Region:
    if not _found(region):
        return region
    size = (int(region.mask.shape[-2]), int(region.mask.shape[-1]))
    return replace(region, mask=Region.of_box(region.phrase, region.box, size).mask.to(region.mask))
