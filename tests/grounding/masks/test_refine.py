"""Mask refinement against hand-made cases and slow definitions."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.grounding.masks.refine import (
    edge_mask,
    fill_holes,
    grow_mask,
    guided_filter,
    largest_part,
    mask_parts,
    refine_mask,
    threshold_mask,
)
from regionstyle.nodes.grounding.settings import RefineSettings


def slow_dilation(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """The largest value within a distance, place by place."""
    height, width = mask.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    result = torch.empty_like(mask)
    for y in range(height):
        for x in range(width):
            result[y, x] = mask[(ys - y) ** 2 + (xs - x) ** 2 <= radius**2].max()
    return result


@pytest.mark.parametrize("size", [(9, 13), (1, 7), (16, 3)])
@pytest.mark.parametrize("pixels", [1, 3, 20])
def test_grow_and_shrink_equal_their_definition(size, pixels):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1)) ** 4
    assert torch.equal(grow_mask(mask, pixels), slow_dilation(mask, pixels))
    assert torch.equal(grow_mask(mask, -pixels), -slow_dilation(-mask, pixels))


def test_grow_takes_batches_one_by_one():
    masks = torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(2))
    assert torch.equal(grow_mask(masks, 2)[1], grow_mask(masks[1], 2))
    assert torch.equal(grow_mask(masks, 0), masks)


def test_holes_are_filled_and_bays_are_not():
    mask = torch.zeros(9, 9)
    mask[1:8, 1:8] = 0.9
    mask[3:5, 3:5] = 0.1
    mask[6, 1:4] = 0.0  # open to the left
    filled = fill_holes(mask)
    assert (filled[3:5, 3:5] == 1).all()
    changed = filled != mask
    assert int(changed.sum()) == 4


def two_blobs() -> torch.Tensor:
    mask = torch.zeros(10, 20)
    mask[2:5, 2:5] = 1
    mask[5, 2:5] = 0.3
    mask[3:9, 10:18] = 0.8
    mask[2, 10:18] = 0.2
    return mask


def test_parts_are_sorted_soft_and_sum_to_the_mask():
    mask = two_blobs()
    parts = mask_parts(mask)
    assert [float(part.max()) for part in parts] == [pytest.approx(0.8), 1.0]
    assert torch.equal(sum(parts), mask)
    assert torch.equal(largest_part(mask), parts[0])
    assert len(mask_parts(mask, smallest=0.5)) == 1


def test_parts_that_touch_at_a_corner_are_one():
    mask = torch.zeros(8, 8)
    mask[:4, :4] = mask[4:, 4:] = 1
    assert len(mask_parts(mask)) == 1


def test_parts_of_next_to_nothing():
    assert mask_parts(torch.zeros(4, 4)) == []
    faint = torch.full((4, 4), 0.2)
    assert torch.equal(mask_parts(faint)[0], faint)
    assert not largest_part(torch.zeros(4, 4)).any()


def test_edges_follow_the_picture_and_stay_near_the_mask():
    image = torch.zeros(1, 3, 40, 60)
    image[..., 21:] = 1.0
    mask = torch.zeros(40, 60)
    mask[10:30, 25:40] = 1
    refined = edge_mask(mask, image, 6)
    assert float(refined[20, 21] - refined[20, 20]) > 0.15
    assert (refined[:, :12] == 0).all()
    raw = guided_filter(mask[None, None], image, 6)[0, 0]
    faint = (raw > 0) & (raw < 0.02)
    assert faint.any()
    assert not refined[faint].any()
    assert torch.equal(refined[~faint], raw[~faint])


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (5, 5)])
def test_edges_of_tiny_pictures(size):
    """A whole mask stays whole, however few pixels the window holds."""
    refined = edge_mask(torch.ones(size), torch.rand(1, 3, *size), 50)
    torch.testing.assert_close(refined, torch.ones(size))


def test_the_defaults_change_nothing_and_order_is_as_told():
    mask = two_blobs()
    assert torch.equal(refine_mask(mask, RefineSettings()), mask)
    hard = refine_mask(mask, RefineSettings(threshold=0.5, largest=True, grow=1))
    assert torch.equal(hard, grow_mask(largest_part(threshold_mask(mask, 0.5)), 1))


def test_feather_keeps_the_mask_and_ends():
    mask = torch.zeros(20, 20)
    mask[8:12, 8:12] = 1
    soft = refine_mask(mask, RefineSettings(feather=3))
    assert (soft >= mask).all()
    assert 0 < float(soft[7, 9]) < 1
    assert float(soft[4, 9]) == 0


def test_edges_need_a_picture():
    with pytest.raises(RegionStyleError, match="image.*edges"):
        refine_mask(torch.ones(4, 4), RefineSettings(edges=2))
