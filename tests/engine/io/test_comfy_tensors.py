"""Any pack's MASK and IMAGE at the door: shapes, sizes, values."""

import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.io.comfy_tensors import images_of, masks_of

IMAGES = torch.zeros(2, 3, 6, 8)


@pytest.mark.parametrize("shape", [(6, 8), (1, 6, 8), (2, 6, 8), (3, 4), (2, 12, 16), (2, 6, 8, 1)])
def test_masks_of_any_size_and_number_fit_the_images(shape):
    made = masks_of(torch.ones(shape) * 3 - 1, IMAGES)
    assert made.shape == (2, 6, 8)
    assert torch.equal(made, torch.ones(2, 6, 8))


@pytest.mark.parametrize("shape", [(), (8,), (3, 6, 8), (2, 6, 8, 3)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(RegionStyleError, match="shape"):
        masks_of(torch.ones(shape), IMAGES)


def test_values_that_are_no_numbers_are_refused():
    mask = torch.ones(6, 8)
    mask[2, 3] = float("nan")
    with pytest.raises(RegionStyleError, match="NaN"):
        masks_of(mask, IMAGES)


def test_an_alpha_channel_is_no_colour():
    assert images_of(torch.rand(2, 6, 8, 4)).shape == (2, 3, 6, 8)
    with pytest.raises(RegionStyleError, match="IMAGE"):
        images_of(torch.rand(6, 8, 3))
