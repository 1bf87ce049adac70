"""The window that a region is worked on in."""

import pytest
import torch

from regionstyle.nodes.local_clip.frames import frame_of
from regionstyle.nodes.local_clip.settings import LocalClipSettings


@pytest.mark.parametrize(
    ("side", "size", "pixels"),
    [(500, 512, 1.0), (400, 512, 1.0), (512, 512, 1.0), (1000, 512, 512 / 1400), (100, 512, 512 / 140)],
)
def test_a_region_that_fits_keeps_its_own_pixels(side, size, pixels):
    """pixels: worked on for each of the picture's; a larger region is made smaller with its margin."""
    mask = torch.zeros(1600, 1800)
    mask[200 : 200 + side, 300 : 300 + side] = 1
    crop = frame_of(mask, size, LocalClipSettings()).crop
    assert crop.size / crop.side == pytest.approx(pixels, rel=0.05)
    assert crop.left <= 300
    assert crop.left + crop.side >= 300 + side
