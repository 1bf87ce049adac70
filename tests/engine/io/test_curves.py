"""Pictures about a run."""

import pytest
import torch

from regionstyle.nodes.engine.io.curves import HELD_OUT, loss_panel, strip


@pytest.mark.parametrize("height", [64, 191, 376, 512, 752, 1176, 1384, 1504])
def test_frames_of_every_height_stand_in_one_strip(height):
    made = strip([torch.zeros(3, height, 2 * height), torch.ones(3, 128, 64)])
    assert made.shape == (3, 192, 384 + 96)
    assert float(made[:, :, :384].max()) == 0
    assert float(made[:, :, 384:].min()) == 1


def test_what_was_held_out_is_drawn_on_the_same_axes():
    def orange(held):
        panel = loss_panel("x", [1.0] * 50 + [0.5] * 50, (0, 0, 255), held_out=held)
        ink = torch.tensor(HELD_OUT).view(3, 1, 1) / 255
        return ((panel - ink).abs().amax(0) < 0.01)[30:]  # below the line of text

    assert not orange([]).any()
    assert orange([(0, 0.9)]).any(), "a single measurement is a point"
    low, high = (orange([(0, level), (100, level)]).nonzero().float().mean(0) for level in (0.5, 0.9))
    assert low[0] > high[0] + 60, "a lower loss stands lower"
    columns = orange([(0, 0.9), (100, 0.5)]).nonzero()[:, 1]
    assert columns.min() < 15
    assert columns.max() > 465
