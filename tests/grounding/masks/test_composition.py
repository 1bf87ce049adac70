"""Set operations on masks, overlaps, background, picking."""

import pytest
import torch

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.regions import Regions, region_of
from regionstyle.nodes.grounding.masks.composition import (
    combine_masks,
    cut_overlaps,
    join,
    pick,
    with_background,
    without_overlaps,
)

A = torch.tensor([[0.0, 0.25, 1.0, 1.0]])
B = torch.tensor([[0.0, 0.5, 0.5, 1.0]])


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("union", [0, 0.5, 1, 1]),
        ("intersect", [0, 0.25, 0.5, 1]),
        ("subtract", [0, 0.25, 0.5, 0]),
        ("complement", [1, 0.5, 0, 0]),
    ],
)
def test_operations(operation, expected):
    assert combine_masks(A, B, operation).tolist() == [expected]


def test_complement_of_one_and_the_missing_second():
    assert combine_masks(A, None, "complement").tolist() == [[1, 0.75, 0, 0]]
    with pytest.raises(RegionStyleError, match="second mask for 'union'"):
        combine_masks(A, None, "union")
    with pytest.raises(RegionStyleError, match="union, intersect"):
        combine_masks(A, B, "xor")


def strip(name: str, x0: int, x1: int, image: int = 0, score: float = 1.0):
    mask = torch.zeros(2, 10)
    mask[:, x0:x1] = 1
    return region_of(name, mask, image=image, score=score)


@pytest.mark.parametrize(
    ("priority", "widths"),
    [
        ("later on top", [4, 2]),
        ("earlier on top", [6, 0]),
        ("smaller on top", [4, 2]),
        ("higher score on top", [6, 0]),
    ],
)
def test_overlaps_by_priority(priority, widths):
    cut = cut_overlaps([strip("a", 0, 6, score=0.9), strip("b", 3, 5, score=0.2)], priority)
    assert [int(one.mask.sum()) // 2 for one in cut] == widths
    assert [one.score > 0 for one in cut] == [width > 0 for width in widths]


def test_pictures_do_not_cut_each_other():
    regions = Regions((strip("a", 0, 6), strip("b", 3, 9, image=1)), 2, 10, 2)
    assert torch.equal(without_overlaps(regions).union(), regions.union())


def test_background_per_picture():
    full = with_background(Regions((strip("a", 0, 6), strip("b", 3, 9, image=1)), 2, 10, 2), "neon")
    assert [(one.phrase, one.style, one.image) for one in full][2:] == [
        ("background", "neon", 0),
        ("background", "neon", 1),
    ]
    assert torch.equal(full.union(), torch.ones(2, 2, 10))


def test_join_needs_the_same_pictures():
    a = Regions((strip("a", 0, 6),), 2, 10)
    assert join(a, Regions((strip("b", 0, 2),), 2, 10)).phrases == ("a", "b")
    with pytest.raises(RegionStyleError, match="as the first"):
        join(a, Regions((), 2, 11))


def test_pick_sorts_and_takes_per_picture():
    items = [strip("a", 6, 9), strip("b", 0, 4), strip("c", 4, 6), strip("d", 1, 2, image=1)]
    regions = Regions(tuple(items), 2, 10, 2)
    assert [one.phrase for one in pick(regions, "left")] == ["b", "c", "a", "d"]
    assert [one.phrase for one in pick(regions, "left", 2, 1)][:1] == ["c"]
    assert [one.phrase for one in pick(regions)] == ["a", "b", "c", "d"]


def test_pick_that_leaves_nothing_keeps_the_phrase_with_an_empty_mask():
    left = pick(Regions((strip("a", 0, 3),), 2, 10), "left", 2)
    assert [(one.phrase, one.score, bool(one.mask.any())) for one in left] == [("a", 0.0, False)]


def test_the_overlaps_of_thousands_of_regions_can_be_cancelled():
    seen = []
    host = LocalHost("cpu", on_progress=lambda *report: seen.append(report[1:3]), cancelled=lambda: len(seen) == 3)
    many = Regions(tuple(region_of("dot", torch.ones(1, 1)) for _ in range(3000)), 1, 1)
    with pytest.raises(Cancelled):
        without_overlaps(many, host=host)
    assert seen == [(1, 3000), (2, 3000), (3, 3000)]
