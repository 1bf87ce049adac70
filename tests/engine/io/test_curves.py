"""Pictures about a run."""

import pytest
import torch

from regionstyle.nodes.engine.io.curves import strip


@pytest.mark.parametrize("height", [64, 191, 376, 512, 752, 1176, 1384, 1504])
def test_frames_of_every_height_stand_in_one_strip(height):
    made = strip([torch.zeros(3, height, 2 * height), torch.ones(3, 128, 64)])
    assert made.shape == (3, 192, 384 + 96)
    assert float(made[:, :, :384].max()) == 0
    assert float(made[:, :, 384:].min()) == 1
