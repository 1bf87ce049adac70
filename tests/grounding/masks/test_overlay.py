"""The overlay reads on dark and on light pictures."""

import time

import pytest
import torch

from regionstyle.nodes.engine.host.base import Cancelled
from regionstyle.nodes.engine.region.boxes import mask_box
from regionstyle.nodes.engine.region.regions import missing_region, region_of
from regionstyle.nodes.grounding.masks import overlay
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


class Counted:
    """A progress that cancels after so many steps."""

    def __init__(self, most: int) -> None:
        self.most, self.steps = most, []

    def update(self, done: int, preview=None) -> None:
        self.steps.append(done)
        if done >= self.most:
            raise Cancelled("enough")


def test_progress_counts_drawing_and_labelling_and_can_cancel():
    regions = [square((400, 600), (20 * n, 20 * n + 15, 30, 60)) for n in range(1, 6)]
    counted = Counted(100)
    reported = labelled_overlay(torch.zeros(1, 3, 400, 600), regions, counted)
    assert counted.steps == list(range(1, 11))
    assert torch.equal(reported, labelled_overlay(torch.zeros(1, 3, 400, 600), regions))
    for step in (3, 8):
        with pytest.raises(Cancelled):
            labelled_overlay(torch.zeros(1, 3, 400, 600), regions, Counted(step))


def test_many_regions_are_drawn_in_bounded_time():
    began = time.process_time()
    tops = [(number % 97) * 5 for number in range(300)]
    regions = [square((512, 512), (top, top + 6, top, top + 9)) for top in tops]
    assert labelled_overlay(torch.zeros(1, 3, 512, 512), regions).shape == (1, 3, 512, 512)
    assert time.process_time() - began < 6  # less than one second; it was quadratic


def test_a_soft_mask_is_drawn_as_if_the_whole_canvas_were(monkeypatch):
    """Against the drawing of the whole picture, at the frame and inside."""
    mask = torch.rand(100, 128, generator=torch.Generator().manual_seed(0)) ** 2
    mask[:, :20] = mask[60:] = 0
    mask[40:60] = mask[40:60].round()
    region = region_of("thing", mask)
    image = torch.rand(1, 3, 100, 128, generator=torch.Generator().manual_seed(1))
    window = labelled_overlay(image, [region])
    monkeypatch.setattr(overlay, "mask_box", lambda mask, *_: (0, 0, 128, 100))
    monkeypatch.setattr(overlay, "_outline_box", lambda region: mask_box(region.mask, 0.5))
    assert torch.equal(window, labelled_overlay(image, [region]))


def test_a_long_label_is_shortened():
    mask = torch.ones(64, 64)
    assert labelled_overlay(torch.zeros(1, 3, 64, 64), [region_of("x" * 100_000, mask, style="\ud83d")]).shape[1] == 3
