"""Masks and regions put together: set operations, overlaps, background, picking and sorting.

Masks are soft: union is the larger value, intersection the smaller, the complement 1 - mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.base import Host, counted
from ...engine.region.region import Region
from ...engine.region.regions import Regions, region_of
from ..finders.selection import sort_instances
from ..language.written_words import check_words

OPERATIONS = ("union", "intersect", "subtract", "complement")
PRIORITIES = ("later on top", "earlier on top", "smaller on top", "higher score on top")


def combine_masks(a: Tensor, b: Tensor | None, operation: str) -> Tensor:
    """union: in a or b; intersect: in both; subtract: in a and not in b; complement: in neither (b may be None).

    Masks of one shape in 0..1. RegionStyleError for an unknown operation or a second mask that is missing.
    """
    if operation == "complement":
        return 1 - (a if b is None else torch.maximum(a, b))
    if operation not in OPERATIONS:
        raise wrong_input("operation", repr(operation), f"one of: {', '.join(OPERATIONS)}", "Choose one of these.")
    if b is None:
        raise wrong_input("b", "nothing", f"a second mask for {operation!r}", "Connect it, or choose complement.")
    if operation == "union":
        return torch.maximum(a, b)
    return torch.minimum(a, b if operation == "intersect" else 1 - b)


def with_mask(region: Region, mask: Tensor) -> Region:
    """A region with another mask; where that is empty it becomes one that was not found."""
    return region_of(region.phrase, mask, style=region.style, score=region.score, image=region.image)


def _on_top(items: Sequence[Region], priority: str) -> list[int]:
    """Indices from the bottom to the top."""
    keys = {
        "later on top": lambda index: index,
        "earlier on top": lambda index: -index,
        "smaller on top": lambda index: -float(items[index].mask.sum()),
        "higher score on top": lambda index: items[index].score,
    }
    if priority not in keys:
        raise wrong_input("priority", repr(priority), f"one of: {', '.join(PRIORITIES)}", "Choose one of these.")
    return sorted(range(len(items)), key=keys[priority])


def cut_overlaps(items: Sequence[Region], priority: str = "later on top", host: Host | None = None) -> list[Region]:
    """The regions of one picture with every place given to one of them only; their order stays.

    What lies on top keeps its mask; the others lose what is covered, softly where the cover is soft. host: counts the
    regions, and may cancel at each.
    """
    result = list(items)
    covered: Tensor | None = None
    for index in counted(_on_top(items, priority)[::-1], host, "regions"):
        mask = items[index].mask
        if covered is not None:
            result[index] = with_mask(items[index], torch.minimum(mask, 1 - covered))
        covered = mask if covered is None else torch.maximum(covered, mask)
    return result


def without_overlaps(regions: Regions, priority: str = "later on top", host: Host | None = None) -> Regions:
    """`cut_overlaps` for every picture of a batch; items keep their places."""
    indices: list[list[int]] = [[] for _ in range(regions.batch)]
    for index, region in enumerate(regions):
        indices[region.image].append(index)
    items = list(regions.items)
    for own in indices:
        for index, cut in zip(own, cut_overlaps([items[index] for index in own], priority, host), strict=True):
            items[index] = cut
    return regions.with_items(items)


def with_background(regions: Regions, style: str, phrase: str = "background") -> Regions:
    """One more region per picture: what none of the others covers. RegionStyleError for words that are not plain."""
    check_words(phrase, "phrase")
    check_words(style, "style")
    rest = 1 - regions.union()
    return regions.with_items(
        [*regions, *(region_of(phrase, mask, style=style, image=image) for image, mask in enumerate(rest))]
    )


def join(a: Regions, b: Regions) -> Regions:
    """The regions of both; RegionStyleError when they belong to pictures of another size or number."""
    own, other = ((r.batch, r.height, r.width) for r in (a, b))
    if own != other:
        raise wrong_input(
            "regions", f"{other} (pictures, height, width)", f"{own}, as the first", "Use the same pictures."
        )
    return a.with_items([*a, *b])


def pick(regions: Regions, order: str = "", first: int = 1, count: int | None = None) -> Regions:
    """Sort the regions of every picture and take some of them.

    order: as in `sort_instances`, "" keeps the order; first: 1 is the first; count: None takes all that follow. Only
    what was found is counted. A picture left with none keeps, for each phrase it had, one region with an empty mask.
    """
    return regions.with_items(
        region for image in range(regions.batch) for region in _picked(regions, image, order, first, count)
    )


def _picked(regions: Regions, image: int, order: str, first: int, count: int | None) -> list[Region]:
    items = regions.of_image(image)
    present = [region for region in items if bool((region.mask > 0).any())]
    chosen = (sort_instances(present, order) if order else present)[first - 1 :][:count]
    missing = {
        region.phrase: replace(with_mask(region, torch.zeros_like(region.mask)), style=region.style) for region in items
    }
    return chosen or list(missing.values())
