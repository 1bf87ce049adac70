"""Regions: every thing found in a batch of pictures, each keeping its own words, style, score and mask.

The value behind the ComfyUI socket REGIONSTYLE_REGIONS. Masks are `[H,W]` in 0..1, 1 is the region to change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import wrong_input
from .region import Region

REGIONS_TYPE = "REGIONSTYLE_REGIONS"
MOST_PIXELS = 2**31  # of all masks together: 8.6 GB


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of a batch of `batch` pictures, each `height` x `width` pixels.

    items are in the order they were asked for, which is also the order they are worked on: later ones lie on top.
    Two things of one name are two items. A phrase that was not found in a picture is an item with an empty mask, the
    box (0, 0, 0, 0) and score 0, so that nothing asked for is lost. RegionStyleError for an item that does not belong
    to these pictures.
    """

    items: tuple[Region, ...]
    height: int
    width: int
    batch: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.batch) < 1:
            got = f"{self.batch} pictures of {self.height} x {self.width}"
            raise wrong_input("regions", got, "at least one picture of at least one pixel", "Pass the pictures' size.")
        for item in self.items:
            self._check(item)

    def _check(self, item: Region) -> None:
        name, size = f"regions, {item.phrase!r}", (self.height, self.width)
        if not item.mask.is_floating_point() or tuple(item.mask.shape) != size:
            got = f"a mask {item.mask.dtype} {list(item.mask.shape)}"
            raise wrong_input(name, got, f"floating point {list(size)}", "Resize the mask to the picture first.")
        if not 0 <= item.image < self.batch:
            raise wrong_input(name, f"image {item.image}", f"0 to {self.batch - 1}", "Give the index in the batch.")
        if not (math.isfinite(item.score) and item.score >= 0):
            raise wrong_input(name, f"score {item.score}", "a number, 0 or more", "Use 0 for a thing not found.")

    def __iter__(self) -> Iterator[Region]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def phrases(self) -> tuple[str, ...]:
        """The phrases in their order, each once."""
        return tuple(dict.fromkeys(item.phrase for item in self.items))

    @property
    def missing(self) -> tuple[Region, ...]:
        """The items that were not found: those with an empty mask."""
        return tuple(item for item in self.items if not bool((item.mask > 0).any()))

    def of_phrase(self, phrase: str) -> Regions:
        """The items of one phrase; RegionStyleError naming the phrases there are when it is none of them."""
        if phrase not in self.phrases:
            known = ", ".join(repr(name) for name in self.phrases) or "nothing: there are no regions"
            raise wrong_input("phrase", repr(phrase), f"one of: {known}", "Use the words the region was made with.")
        return self.with_items(item for item in self.items if item.phrase == phrase)

    def of_image(self, index: int) -> tuple[Region, ...]:
        """The items of one picture of the batch."""
        return tuple(item for item in self.items if item.image == index)

    def union(self) -> Tensor:
        """What any region covers, `[B,H,W]`: the largest of the masks, zeros where there is none. A new tensor."""
        result = torch.zeros(self.batch, self.height, self.width)
        for item in self.items:
            result[item.image] = torch.maximum(result[item.image], item.mask.to(result))
        return result

    def with_items(self, items: Iterable[Region]) -> Regions:
        """Other regions of the same pictures."""
        return replace(self, items=tuple(items))


def check_room(count: int, size: tuple[int, int], name: str) -> None:
    """RegionStyleError, before any is made, when so many masks of size `(H, W)` take more than `MOST_PIXELS`.

    name: the input that asks for them.
    """
    if count * size[0] * size[1] > MOST_PIXELS:
        got, most = f"{count} for pictures of {size[1]} x {size[0]} pixels", MOST_PIXELS // (size[0] * size[1])
        raise wrong_input(name, got, f"at most {most} at that size", "Use fewer, or smaller pictures.")


def region_of(phrase: str, mask: Tensor, *, style: str = "", score: float = 1.0, image: int = 0) -> Region:
    """The region of a mask `[H,W]`; with nothing above 0 in it the region of a thing that was not found, score 0."""
    if bool((mask > 0).any()):
        return Region.of_mask(phrase, mask, style=style, score=score, image=image)
    return Region(phrase, (0, 0, 0, 0), torch.zeros_like(mask), style, 0.0, image)


def missing_region(phrase: str, size: tuple[int, int], *, style: str = "", image: int = 0) -> Region:
    """A thing that was not found in a picture of size `(H, W)`: empty mask, score 0."""
    return region_of(phrase, torch.zeros(size), style=style, image=image)


def not_found_notice(regions: Regions) -> str:
    """A line that names what was not found and in which pictures; empty when all was found."""
    where: dict[str, list[str]] = {}
    for item in regions.missing:
        where.setdefault(item.phrase, []).append(str(item.image))
    lines = (f"{phrase!r} not found in image {', '.join(images)}: empty mask" for phrase, images in where.items())
    return "; ".join(lines)
