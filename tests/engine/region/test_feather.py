"""The seam of a region: where it lies, and that nobody sees it."""

import math

import pytest
import torch
from region_pictures import mask_of, picture, places

from regionstyle.nodes.engine.region.region import RegionCrop, feather_mask


@pytest.mark.parametrize("feather", [1, 3, 8])
def test_seam_grows_outwards(feather):
    mask = mask_of((20, 20, 40, 40), (64, 64))
    seam = feather_mask(mask, feather)
    assert (seam[mask == 1] == 1).all()
    assert (seam[30, 40 : 40 + feather] > 0).all()
    assert (seam[30, 40 + feather :] == 0).all()
    assert (seam[30, 40:].diff() <= 0).all()
    assert seam[30, 40] == pytest.approx(math.cos(math.pi / 2 / (feather + 1)) ** 2)


def test_seam_grows_inwards():
    mask = mask_of((0, 20, 40, 40), (64, 64))
    seam = feather_mask(mask, -4)
    assert (seam[mask == 0] == 0).all()
    assert (seam[24:36, 0:36] == 1).all(), "the frame of the picture is no seam"
    assert 0 < seam[30, 39] < seam[30, 37] < 1


@pytest.mark.parametrize("feather", [2, 5, -5, 24])
@pytest.mark.parametrize("native", [32, 200], ids=["tight window", "wide window"])
@pytest.mark.parametrize("place", ["a disc", *places(9, 9)])
def test_the_seam_has_no_visible_step(place, native, feather):
    """A grey picture and a lighter worked window: no neighbours differ by more than the seam's steepest slope.

    Twice that slope where the seam is cut by the window too, since two ramps multiply there.
    """
    size = (120, 160)
    y, x = torch.arange(120)[:, None], torch.arange(160)
    mask = ((y - 60) ** 2 + (x - 70) ** 2 < 900).float() if place == "a disc" else mask_of(places(*size)[place], size)
    crop = RegionCrop.around(mask, native=native)
    grey = torch.full((1, 3, *size), 0.2)
    pasted = crop.paste(grey, torch.ones(1, 3, crop.size, crop.size), mask, feather)
    steps = max(float(pasted.diff(dim=axis).abs().max()) for axis in (-1, -2))
    slope = math.pi / 2 / (abs(feather) + 1)
    assert steps <= 0.8 * slope * (2 if native == 32 else 1)
    if feather > 0 and native == 200:
        torch.testing.assert_close(pasted[0, 0][mask == 1], torch.ones(int(mask.sum())))


def test_soft_masks_stay_soft():
    mask = torch.linspace(0, 1, 64).expand(64, 64)
    assert torch.equal(feather_mask(mask, 0), mask)
    assert (feather_mask(mask, 3) >= mask).all()
    assert (feather_mask(mask, -3) <= mask).all()
    crop = RegionCrop.around(mask_of((0, 0, 64, 64), (64, 64)), native=32)
    small = crop.cut_mask(mask)
    assert small.shape == (32, 32)
    assert small[5, 16] == pytest.approx(0.5, abs=0.05)


def test_seam_wider_than_the_margin_ends_at_the_window():
    image, box = picture(80, 80), (30, 30, 50, 50)
    crop = RegionCrop.around(box, (80, 80), native=16, margin=0.1)
    assert crop.window == (28, 28, 52, 52)
    seam = crop.composite_mask(mask_of(box, (80, 80)), feather=10)[0, 0]
    assert (seam[:28] == 0).all()
    assert seam[28, 40] < 0.2
    pasted = crop.paste(image, torch.zeros(1, 3, 16, 16), mask_of(box, (80, 80)), feather=10)
    assert torch.equal(pasted[..., :28, :], image[..., :28, :])
