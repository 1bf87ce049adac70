"""Pasting back and laying together: exact outside the mask."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.paste import inner_seam, paste_back
from regionstyle.nodes.harmonizer.place import lay_into, on_canvas
from regionstyle.nodes.harmonizer.settings import PlaceSettings


def pictures(*sizes):
    return [torch.rand(1, 3, *size) for size in sizes]


def box(h, w, top, left, size):
    mask = torch.zeros(1, 1, h, w)
    mask[..., top : top + size, left : left + size] = 1
    return mask


@pytest.mark.parametrize("seam", [0, 1, 5, 200])
def test_outside_the_mask_is_bit_equal(seam):
    composite, made = pictures((30, 40), (30, 40))
    made[..., 0, 0] = float("nan")
    mask = box(30, 40, 8, 10, 14)
    result = paste_back(composite, made, mask, seam=seam)
    outside = (mask == 0).expand_as(composite)
    assert torch.equal(result[outside], composite[outside])
    assert result.isfinite().all()


def test_without_a_seam_the_inside_is_the_harmonised():
    composite, made = pictures((30, 40), (30, 40))
    mask = box(30, 40, 8, 10, 14)
    inside = (mask == 1).expand_as(composite)
    assert torch.equal(paste_back(composite, made, mask)[inside], made[inside])


def test_a_soft_mask_mixes_linearly():
    composite, made = pictures((4, 4), (4, 4))
    half = torch.full((1, 1, 4, 4), 0.25)
    torch.testing.assert_close(paste_back(composite, made, half), 0.75 * composite + 0.25 * made)


def test_the_seam_rises_from_the_border_inwards():
    seam = inner_seam(box(41, 41, 10, 10, 21), 4)[0, 0, 20]
    assert seam[9] == 0
    assert 0 < seam[10] < seam[12] < seam[13]
    assert seam[15:26].min() == 1
    torch.testing.assert_close(seam, seam.flip(0))


def test_a_foreground_cut_by_the_frame_has_no_seam_there():
    mask = box(40, 40, 0, 10, 20)
    seam = inner_seam(mask, 4)[0, 0]
    assert seam[0, 20] == 1
    assert seam[19, 20] < 0.5


def test_a_seam_wider_than_the_thing_still_lets_its_middle_change():
    mask = torch.cat([box(41, 41, 15, 10, 9), box(41, 41, 5, 5, 30)])
    seam = inner_seam(mask, 30)[:, 0]
    assert seam[0].max() == 1
    assert seam[0, 15, 14] < 0.3
    assert seam[1].max() == 1


def test_a_mask_that_covers_everything_has_no_seam():
    assert inner_seam(torch.ones(1, 1, 9, 9), 4).min() == 1


@pytest.mark.parametrize("seam", [-1, float("nan"), float("inf")])
def test_a_seam_that_is_none(seam):
    composite, made = pictures((4, 4), (4, 4))
    with pytest.raises(RegionStyleError, match="seam"):
        paste_back(composite, made, torch.ones(1, 1, 4, 4), seam=seam)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.zeros(1, 1, 4, 5)}, r"mask: got torch.float32 \[1, 1, 4, 5\]"),
        ({"mask": torch.full((1, 1, 4, 4), 2.0)}, "mask: got values 2..2"),
        ({"composite": torch.full((1, 3, 4, 4), float("nan"))}, "composite: got values nan"),
        ({"harmonized": torch.zeros(1, 3, 5, 5)}, "harmonized"),
        ({"composite": torch.zeros(1, 3, 4, 4).int()}, "composite: got torch.int32"),
    ],
)
def test_what_does_not_fit(change, message):
    given = {name: torch.zeros(1, 3, 4, 4) for name in ("composite", "harmonized")} | {"mask": torch.ones(1, 1, 4, 4)}
    with pytest.raises(RegionStyleError, match=message):
        paste_back(**(given | change))


def test_a_foreground_is_laid_at_its_place():
    front, behind = pictures((6, 8), (20, 30))
    composite, mask = lay_into(front, torch.ones(1, 1, 6, 8), behind, PlaceSettings(5, 3))
    assert torch.equal(composite[..., 3:9, 5:13], front)
    assert mask.sum() == 48
    assert torch.equal(torch.where(mask > 0, 0, composite), torch.where(mask > 0, 0, behind))


@pytest.mark.parametrize(("x", "y", "seen"), [(-4, 2, 24), (26, 17, 12), (-7, -5, 1)])
def test_what_lies_beyond_the_background_is_cut_off(x, y, seen):
    front, behind = pictures((6, 8), (20, 30))
    composite, mask = lay_into(front, torch.ones(1, 1, 6, 8), behind, PlaceSettings(x, y))
    assert mask.sum() == seen
    assert composite.shape == behind.shape


def test_a_scaled_foreground():
    front, behind = pictures((6, 8), (20, 30))
    _, mask = lay_into(front, torch.ones(1, 1, 6, 8), behind, PlaceSettings(1, 1, 2.0))
    assert mask.sum() == 12 * 16


@pytest.mark.parametrize("scale", [0.5, 1.7, 3.0])
def test_scaling_lets_no_surroundings_into_the_border(scale):
    mask = box(16, 16, 5, 5, 6)
    front = torch.where(mask > 0, torch.full((1, 3, 16, 16), 0.2), torch.ones(()))
    composite, region = lay_into(front, mask, torch.full((1, 3, 60, 60), 0.2), PlaceSettings(2, 2, scale))
    assert region.max() > 0.9
    torch.testing.assert_close(composite, torch.full_like(composite, 0.2))


def test_a_foreground_that_gets_too_large():
    front = torch.rand(1, 3, 200, 200)
    with pytest.raises(RegionStyleError, match="scale: got 100, 20000 x 20000 pixels"):
        lay_into(front, torch.ones(1, 1, 200, 200), front, PlaceSettings(0, 0, 100.0))


def test_a_place_where_only_the_masks_empty_part_is_seen():
    front, behind = pictures((20, 20), (20, 20))
    with pytest.raises(RegionStyleError, match="nothing of the foreground is inside"):
        lay_into(front, box(20, 20, 0, 0, 4), behind, PlaceSettings(-10, -10))


def test_the_canvas_goes_on_with_the_borders_colours():
    front, behind = pictures((6, 8), (20, 30))
    canvas, _ = on_canvas(front, torch.ones(1, 1, 6, 8), behind, PlaceSettings(5, 3))
    assert torch.equal(canvas[..., 0, 5:13], front[..., 0, :])


@pytest.mark.parametrize("at", [(30, 0), (0, 20), (-8, 0), (0, -6)])
def test_a_place_where_nothing_is_seen(at):
    front, behind = pictures((6, 8), (20, 30))
    with pytest.raises(RegionStyleError, match="place: got x"):
        lay_into(front, torch.ones(1, 1, 6, 8), behind, PlaceSettings(*at))


def test_batches_that_do_not_fit():
    with pytest.raises(RegionStyleError, match="background: got 2 pictures for 3"):
        lay_into(torch.rand(3, 3, 4, 4), torch.ones(3, 1, 4, 4), torch.rand(2, 3, 9, 9), PlaceSettings())
