"""Which of the found instances are meant: by order, position, number, and relation to another thing.

All regions given to one call are in the same picture. Boxes decide about positions, masks about areas.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.errors import wrong_input
from ...engine.language.instruction import ORDERS, RELATIONS, Selector
from ...engine.region.region import Box, Region


def center(box: Box) -> tuple[float, float]:
    """x and y of a box's centre, in pixels."""
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def overlap(a: Box, b: Box) -> float:
    """Area of the intersection of two boxes, in pixels."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def box_iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    both = overlap(a, b)
    return both / max(_area(a) + _area(b) - both, 1e-9)


def gap(a: Box, b: Box) -> float:
    """The distance between two boxes, in pixels; 0 where they touch or overlap."""
    across = max(0, max(a[0], b[0]) - min(a[2], b[2]))
    down = max(0, max(a[1], b[1]) - min(a[3], b[3]))
    return float((across**2 + down**2) ** 0.5)


def suppress(instances: Sequence[Region], iou: float = 0.6) -> list[Region]:
    """Non-maximum suppression: of boxes that overlap by more than `iou` only the one of the best score stays."""
    kept: list[Region] = []
    for region in sorted(instances, key=lambda region: -region.score):
        if all(box_iou(region.box, other.box) <= iou for other in kept):
            kept.append(region)
    return kept


def sort_instances(instances: Sequence[Region], order: str) -> list[Region]:
    """Sorted by one of ORDERS, or towards a corner such as "top left"; equal ones keep their order."""
    sides = order.split()
    if order not in ORDERS and not (len(sides) == 2 and all(side in _TOWARDS for side in sides)):
        raise wrong_input("order", repr(order), f"one of: {', '.join(ORDERS)}, or a corner", "Correct the order.")
    if order == "score":
        return sorted(instances, key=lambda region: -region.score)
    if order in ("largest", "smallest"):
        sign = -1 if order == "largest" else 1
        return sorted(instances, key=lambda region: sign * float(region.mask.sum()))
    if order == "center":
        return sorted(instances, key=lambda region: sum((v - 0.5) ** 2 for v in _place(region)))
    return sorted(instances, key=lambda region: sum(_TOWARDS[side](*_place(region)) for side in sides))


# From the place in the picture, 0..1, to a number that is lowest at that side.
_TOWARDS = {
    "left": lambda x, y: x,
    "right": lambda x, y: -x,
    "top": lambda x, y: y,
    "bottom": lambda x, y: -y,
}


def _place(region: Region) -> tuple[float, float]:
    """The box's centre in 0..1 of the picture's width and height."""
    x, y = center(region.box)
    return x / region.mask.shape[-1], y / region.mask.shape[-2]


def _in_half(region: Region, order: str) -> bool:
    """Whether the centre lies in the half (or quarter) of the picture that the order names."""
    offset = {"left": (0.5, 1.0), "top": (0.5, 1.0), "right": (-0.5, 0.0), "bottom": (-0.5, 0.0)}
    x, y = _place(region)
    return all(_TOWARDS[side](x, y) < offset[side][0] for side in order.split() if side in _TOWARDS)


def related(instances: Sequence[Region], relation: str, anchor: Region) -> list[Region]:
    """Those standing in one of RELATIONS to the anchor, the best one first.

    Sides: the centre lies on that side of the anchor's, things in the same row or column first, then the nearest.
    near: the least gap. on: the largest share inside the anchor's box. behind and in front of: overlapping ones
    first; behind ends higher in the picture than the anchor, in front lower.
    """
    if relation not in RELATIONS:
        raise wrong_input("relation", repr(relation), f"one of: {', '.join(RELATIONS)}", "Correct the relation.")
    others = [region for region in instances if region is not anchor]
    box = anchor.box
    if relation == "near":
        return sorted(others, key=lambda region: gap(region.box, box))
    if relation == "on":
        touching = [region for region in others if gap(region.box, box) == 0]
        return sorted(touching, key=lambda region: -overlap(region.box, box) / max(_area(region.box), 1e-9))
    if relation in ("behind", "in front of"):
        sign = 1 if relation == "behind" else -1
        there = [region for region in others if sign * (box[3] - region.box[3]) > 0]
        return sorted(there, key=lambda region: (overlap(region.box, box) == 0, gap(region.box, box)))
    return _beside(others, relation, box)


def _beside(instances: Sequence[Region], relation: str, box: Box) -> list[Region]:
    axis, sign = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}[relation]
    there = [region for region in instances if sign * (center(box)[axis] - center(region.box)[axis]) > 0]
    other = 1 - axis

    def aligned(region: Region) -> bool:
        return min(region.box[other + 2], box[other + 2]) > max(region.box[other], box[other])

    return sorted(there, key=lambda region: (not aligned(region), gap(region.box, box)))


def select(instances: Sequence[Region], selector: Selector, anchors: Sequence[Region] = ()) -> list[Region]:
    """The instances a rule means, in its order; empty when there are none, or too few for its rank.

    anchors: what was found for `selector.anchor`, the best first; without any, a rule with a relation means nothing.
    """
    chosen = list(instances)
    if selector.relation:
        chosen = related(chosen, selector.relation, anchors[0]) if anchors else []
    if selector.half:
        chosen = [region for region in chosen if _in_half(region, selector.order)]
    if selector.order != "score" or not selector.relation:
        chosen = sort_instances(chosen, selector.order)
    start = selector.rank - 1
    return chosen[start:] if selector.count is None else chosen[start : start + selector.count]
