"""Gates from regions: the expert of each region's style acts inside its mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...engine.adapters.gates import Gates, RegionGate
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import Host, counted
from ...engine.region.feather import feather_mask
from ...engine.region.regions import Regions
from ..experts import Experts


@dataclass(frozen=True, eq=False)
class RoutedStyle:
    """What one expert is for: its name, the style's words, the things that get it, and where, `[B,H,W]` in 0..1.

    on: whether the expert acts there; one of the same name may, which was routed elsewhere.
    """

    expert: str
    style: str
    things: tuple[str, ...]
    mask: Tensor
    on: bool = True


def route_regions(experts: Experts, regions: Regions, *, edge: int = 0, host: Host | None = None) -> list[RoutedStyle]:
    """Every style of the regions with its expert, in their order; regions of one style become one mask.

    edge: width in pixels of the masks' soft edge, outwards or, below 0, inwards (0: as they are). Where masks sum to
    more than 1 they are divided by their sum, so that they sum to 1 at most everywhere. RegionStyleError for no region
    at all, a region without style, and a style without expert. host: counts the regions, and may cancel at each.
    """
    if not len(regions):
        raise RegionStyleError(
            "regions: got none, expected one or more. Make them with Regions from Mask or Find Regions by Attention."
        )
    routed: dict[str, RoutedStyle] = {}
    things: dict[str, dict[str, None]] = {}  # in their order, each once
    for item in counted(regions.items, host, "regions"):
        if not item.style.strip():
            remedy = "Give it one in Regions from Mask, or name it in the sentence it is found by."
            raise wrong_input("regions", f"{item.phrase!r} without a style", "a style for every region", remedy)
        expert = experts.of_style(item.style).name
        if expert not in routed:
            empty = torch.zeros(regions.batch, regions.height, regions.width)
            routed[expert] = RoutedStyle(expert, item.style, (), empty)
        mask = routed[expert].mask  # made here, so it may be filled in place
        mask[item.image] = torch.maximum(mask[item.image], _soft(item.mask.to(mask), edge))
        things.setdefault(expert, {})[item.phrase] = None
    return _at_most_one([replace(style, things=tuple(things[style.expert])) for style in routed.values()])


def region_gates_of(experts: Experts, routed: Sequence[RoutedStyle]) -> Gates:
    """Gates for `ExpertStack` and `attach_to_comfy`; experts without a region are off."""
    strengths = {item.name: item.strength for item in experts}
    masked = {style.expert: RegionGate(style.mask, strengths[style.expert]) for style in routed}
    return Gates({item.name: masked.get(item.name, 0.0) for item in experts})


def _soft(mask: Tensor, edge: int) -> Tensor:
    return feather_mask(mask, edge).clamp(0, 1) if edge else mask


def _at_most_one(routed: list[RoutedStyle]) -> list[RoutedStyle]:
    total = torch.stack([style.mask for style in routed]).sum(0).clamp_min(1)
    return [RoutedStyle(style.expert, style.style, style.things, style.mask / total) for style in routed]
