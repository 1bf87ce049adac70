"""Edges and hints."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.harmonizer.r2r.canny import canny
from regionstyle.nodes.harmonizer.r2r.hint import _swapped_grey, edge_map, hint_of


def noisy(height, width, blur):
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(height)
    smooth = gaussian_filter(random.standard_normal((height, width)), blur) if blur else random.random((height, width))
    return ((smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255).astype(np.uint8)


@pytest.mark.parametrize("picture", [noisy(61, 83, 0), noisy(120, 90, 2), noisy(64, 64, 4), noisy(1, 9, 0)])
def test_edges_are_opencvs_bit_for_bit(picture):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    assert np.array_equal(canny(picture), cv2.Canny(picture, 100, 200))


def test_grey_is_opencvs_with_red_and_blue_exchanged():
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    assert np.array_equal(
        _swapped_grey(torch.from_numpy(picture).permute(2, 0, 1) / 255), cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    )


def test_a_step_has_one_edge_and_a_slope_below_the_threshold_none():
    step = np.zeros((9, 12), np.uint8)
    step[:, 6:] = 255
    edges = canny(step)
    assert (edges.sum(1) == 255).all(), "one pixel per row"
    assert set(np.nonzero(edges)[1]) == {5}
    slope = np.tile(np.arange(0, 120, 10, dtype=np.uint8), (9, 1))  # gradient 80
    assert not canny(slope).any()


def test_weak_edges_stay_where_they_touch_a_strong_one():
    picture = np.zeros((12, 12), np.uint8)
    picture[:, 6:] = np.arange(60, 36, -2)[:, None]  # gradients 240 down to 152
    assert (canny(picture) > 0).any(1).all()
    weak = np.vstack([picture[6:]] * 2)
    weak[:6] = weak[6:][::-1]  # gradients 192 and below
    assert not canny(weak).any()


def test_the_map_holds_the_composite_outside_and_black_or_white_inside():
    composite = torch.full((1, 3, 32, 32), 0.4)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    edges = edge_map(composite, mask)
    inside = mask.bool().expand_as(edges)
    assert torch.equal(edges[~inside], composite[~inside])
    assert set(edges[inside].unique().tolist()) == {0.0, 1.0}
    assert edges[..., 12:20, 12:20].max() == 0, "the foreground's outline is an edge, its flat middle none"
    assert not edge_map(composite, torch.ones(1, 1, 32, 32)).any()


def test_hints_have_seven_channels_in_the_published_order():
    composite = torch.rand(2, 3, 40, 60)
    mask = torch.zeros(2, 1, 40, 60)
    mask[..., 10:30, 20:40] = 1
    hint = hint_of(composite, mask, (40, 60))
    assert torch.equal(hint[:, :3], edge_map(composite, mask) * 2 - 1)
    assert torch.equal(hint[:, 3:6], composite * 2 - 1)
    assert torch.equal(hint[:, 6:], mask)
    small = hint_of(composite, mask * 0.7, (64, 64))
    assert small.shape == (2, 7, 64, 64)
    assert set(small[:, 6].unique().tolist()) == {0.0, 1.0}
