"""The overlay reads on dark and on light pictures."""

import pytest
import torch

from regionstyle.nodes.engine.region.regions import missing_region, region_of
from regionstyle.nodes.grounding.masks.overlay import labelled_overlay


def square(size=(200, 300), at=(60, 120, 90, 180)):
    mask = torch.zeros(size)
    mask[at[0] : at[1], at[2] : at[3]] = 1
    return region_of("red star", mask, style="neon", score=0.8)


@pytest.mark.parametrize("brightness", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_outline_and_label_stand_out(brightness):
    image = torch.full((1, 3, 600, 900), brightness)
    drawn = labelled_overlay(image, [square((600, 900), (200, 400, 300, 600))])
    assert drawn.shape == image.shape
    luminance = drawn[0].mean(0)
    crossing = luminance[300, 290:310]  # over the left outline
    assert float((crossing - brightness).abs().max()) >= 0.25
    label = luminance[176:200, 305:420]
    assert float(label.max()) > 0.9
    assert float(label.min()) < 0.1


def test_far_from_regions_the_picture_stays():
    image = torch.full((1, 3, 600, 900), 128 / 255)
    drawn = labelled_overlay(image, [square((600, 900), (200, 300, 300, 500))])
    assert torch.equal(drawn[..., 400:, :], image[..., 400:, :])
    tinted = drawn[0, :, 280, 450]
    assert float((tinted - 128 / 255).abs().max()) > 0.1


def test_small_pictures_are_enlarged_and_missing_things_listed():
    image = torch.zeros(1, 3, 100, 128)
    found = labelled_overlay(image, [square((100, 128), (20, 60, 30, 60))])
    assert found.shape == (1, 3, 400, 512)
    missing = labelled_overlay(image, [missing_region("blue ring", (100, 128))])
    assert float(missing[..., 350:, :200].max()) == 1.0
    assert not missing[..., :300, :].any()


def test_labels_do_not_cover_each_other():
    one = labelled_overlay(torch.zeros(1, 3, 400, 600), [square((400, 600))])
    two = labelled_overlay(torch.zeros(1, 3, 400, 600), [square((400, 600)), square((400, 600))])
    white = [int((drawn[0].mean(0) > 0.95).sum()) for drawn in (one, two)]
    assert white[1] > 1.8 * white[0]
