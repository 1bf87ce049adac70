"""Regions keep every phrase with its own mask, and say what was not found."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.regions import Regions, missing_region, not_found_notice, region_of


def square(x: int, image: int = 0, phrase: str = "cat", value: float = 1.0):
    mask = torch.zeros(6, 8)
    mask[1:3, x : x + 2] = value
    return region_of(phrase, mask, image=image, score=0.9)


def test_union_is_per_picture_and_keeps_soft_values():
    regions = Regions((square(0, value=0.25), square(0, value=0.5), square(5, image=2)), 6, 8, 3)
    union = regions.union()
    assert union.shape == (3, 6, 8)
    assert float(union[0, 1, 0]) == 0.5
    assert not union[1].any()
    assert torch.equal(union[2], square(5).mask)


def test_phrases_keep_their_order_and_their_items():
    regions = Regions((square(0, phrase="dog"), square(3), square(5, phrase="dog")), 6, 8)
    assert regions.phrases == ("dog", "cat")
    assert [item.box[0] for item in regions.of_phrase("dog")] == [0, 5]
    with pytest.raises(RegionStyleError, match="'bird'.*'dog', 'cat'"):
        regions.of_phrase("bird")


def test_not_found_is_an_item_with_an_empty_mask_and_a_notice():
    regions = Regions((square(0), missing_region("dog", (6, 8), style="neon", image=1)), 6, 8, 2)
    (lost,) = regions.missing
    assert (lost.phrase, lost.style, lost.score, lost.box) == ("dog", "neon", 0.0, (0, 0, 0, 0))
    assert not lost.mask.any()
    assert not_found_notice(regions) == "'dog' not found in image 1: empty mask"
    assert not_found_notice(Regions((square(0),), 6, 8)) == ""


def test_an_empty_mask_cannot_have_a_score():
    assert region_of("cat", torch.zeros(2, 2), score=0.8).score == 0


@pytest.mark.parametrize(
    ("size", "match"),
    [((6, 9, 1), "Resize"), ((6, 8, 1), "0 to 0"), ((0, 8, 1), "at least one")],
    ids=["size", "image", "nothing"],
)
def test_regions_of_other_pictures_are_refused(size, match):
    with pytest.raises(RegionStyleError, match=match):
        Regions((square(0, image=1),), *size)
