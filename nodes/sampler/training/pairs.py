"""What an expert is taught with: a picture before and after one of its things was restyled, and where the thing is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import wrong_input
from ...engine.region.regions import Regions
from ..targets import default_prompt


@dataclass(frozen=True)
class Thing:
    """A restyled thing: its words, its style, and what reads its mask `[H,W]` in 0..1."""

    phrase: str
    style: str
    mask: Callable[[], Tensor]


@dataclass(frozen=True)
class Pair:
    """name: for messages; styled, source: read the picture after and before, `[3,H,W]` in 0..1."""

    name: str
    prompt: str
    styled: Callable[[], Tensor]
    source: Callable[[], Tensor]
    things: tuple[Thing, ...]


@dataclass(frozen=True, eq=False)
class SquarePair:
    """A pair's pictures `[2,3,S,S]`, after and before, and its masks `[T,S,S]`."""

    pictures: Tensor
    masks: Tensor


def read_square(pair: Pair, side: int) -> SquarePair:
    """The middle square of everything, at `side` pixels. RegionStyleError where sizes differ within a pair."""
    styled, source = pair.styled(), pair.source()
    masks = [thing.mask().float() for thing in pair.things]
    size = tuple(styled.shape[-2:])
    named = [(f"the mask of {thing.phrase!r}", mask) for thing, mask in zip(pair.things, masks, strict=True)]
    for what, got in (("the original", source), *named):
        if tuple(got.shape[-2:]) != size:
            shown = f"{what} with {got.shape[-1]} x {got.shape[-2]}"
            accepts = f"{size[1]} x {size[0]}, as the restyled picture"
            raise wrong_input(f"pair {pair.name!r}", shown, accepts, "Make all of them of one size.")
    pictures = _square(torch.stack([styled[:3].float(), source[:3].float()]), side, "bicubic").clamp(0, 1)
    return SquarePair(pictures, _square(torch.stack(masks)[:, None], side, "bilinear")[:, 0].clamp(0, 1))


def _square(images: Tensor, side: int, mode: str) -> Tensor:
    length = min(images.shape[-2:])
    top, left = (images.shape[-2] - length) // 2, (images.shape[-1] - length) // 2
    cut = images[..., top : top + length, left : left + length]
    return cut if length == side else F.interpolate(cut, (side, side), mode=mode, antialias=True)


def pairs_of_batch(styled: Tensor, source: Tensor, regions: Regions, prompts: Sequence[str]) -> list[Pair]:
    """Pairs of images `[B,3,H,W]` and the regions that were restyled in each.

    prompts: one per picture, or none: then "a red star in mosaic style" of its regions. RegionStyleError for batches
    of different sizes, and a picture without a region that has a style.
    """
    if styled.shape != source.shape or regions.batch != len(styled):
        got = f"{list(styled.shape)}, {list(source.shape)} and regions of {regions.batch} pictures"
        raise wrong_input(
            "image, original, regions", got, "the same pictures", "Restyle these pictures in these regions."
        )
    if prompts and len(prompts) != len(styled):
        raise wrong_input("prompts", f"{len(prompts)} lines", f"{len(styled)}, or none", "Give one line per picture.")
    pairs = []
    for number in range(len(styled)):
        own = [region for region in regions if region.image == number and region.style]
        if not own:
            accepts = "a region with a style in every picture"
            raise wrong_input("regions", f"none in picture {number + 1}", accepts, "Leave that picture out.")
        things = tuple(Thing(r.phrase, r.style, lambda mask=r.mask: mask) for r in own)  # type: ignore[misc]
        told = Regions(tuple(own), regions.height, regions.width, regions.batch)
        prompt = prompts[number] if prompts else default_prompt(told)
        one, before = styled[number], source[number]
        pairs.append(Pair(f"picture {number + 1}", prompt, lambda i=one: i, lambda i=before: i, things))  # type: ignore[misc]
    return pairs
