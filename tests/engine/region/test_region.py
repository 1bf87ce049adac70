"""Regions, and what the region code refuses."""

import math

import pytest
import torch
from region_pictures import mask_of

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.region.region import Region, RegionCrop, feather_mask, mask_box


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: RegionCrop.around(torch.zeros(8, 8), native=64), "no value above"),
        (lambda: RegionCrop.around((5, 5, 5, 9), (20, 20), native=64), "x0 < x1"),
        (lambda: RegionCrop.around((30, 0, 40, 9), (20, 20), native=64), "20 x 20"),
        (lambda: RegionCrop.around((0, 0, 4, 4), native=64), "size"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20, 20), native=64, largest_scale=0), "largest_scale"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20, 20), native=8).cut(torch.zeros(1, 3, 9, 20)), r"\[B,C,20,20\]"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20, 20), native=8).cut(torch.zeros(1, 3, 20, 20).long()), "int64"),
        (
            lambda: RegionCrop.around((0, 0, 2, 2), (20, 20), native=8).paste(
                torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 8, 8), torch.ones(20, 20)
            ),
            "only inside the window",
        ),
        (
            lambda: RegionCrop.around((0, 0, 2, 2), (20, 20), native=8).paste(
                torch.zeros(1, 3, 20, 20), torch.zeros(1, 3, 9, 9), torch.zeros(20, 20)
            ),
            "worked",
        ),
        (
            lambda: RegionCrop.around((0, 0, 2, 2), (20, 20), native=8).paste(
                torch.zeros(2, 3, 20, 20), torch.zeros(2, 3, 8, 8), torch.zeros(3, 20, 20)
            ),
            "3 masks .* one for each of the 2 images",
        ),
        (lambda: RegionCrop.around(torch.ones(8), native=64), r"mask: got shape \[8\]"),
        (lambda: RegionCrop.around(torch.ones(0, 8), native=64), r"mask: got shape \[0, 8\]"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20,), native=64), r"size: got \(20,\)"),
        (lambda: RegionCrop.around((0, 0, 4, math.nan), (20, 20), native=64), "box"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20, 20), native=math.nan), "native"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20, 20), native=8, grid=2.5), "grid.*whole number"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (20, 20), native=8, margin=-0.1), "margin"),
        (lambda: feather_mask(torch.zeros(4, 4), 1.5), "feather: got 1.5"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (4, 4), native=8).cut_mask(torch.full((4, 4), 255.0)), r"255\.\.255"),
        (lambda: RegionCrop.around((0, 0, 4, 4), (4, 4), native=8).cut_mask(torch.full((4, 4), math.nan)), "nan"),
        (
            lambda: RegionCrop.around((0, 0, 4, 4), (4, 4), native=8).composite_mask(torch.full((4, 4), -1.0)),
            r"mask: got values -1\.\.-1",
        ),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(RegionStyleError, match=words):
        call()


def test_region_from_mask_and_box():
    mask = mask_of((3, 4, 9, 8), (20, 30)) * 0.3
    region = Region.of_mask("the cat", mask, style="sketch", image=2)
    assert region.box == mask_box(mask) == (3, 4, 9, 8)
    assert torch.equal(Region.of_box("the cat", (3, 4, 9, 8), (20, 30)).mask, (mask > 0).float())
