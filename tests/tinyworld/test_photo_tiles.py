"""What is learnt from photographs: which ones, their tiles, and the cut-outs that the judge sees."""

import numpy as np
import torch
from torch import nn

from regionstyle.nodes.tinyworld.backgrounds import HELD_OUT_PHOTOS
from regionstyle.nodes.tinyworld.classifier import LABELS
from regionstyle.nodes.tinyworld.training import photo_tiles
from regionstyle.nodes.tinyworld.training.classifier_stage import UNKNOWN, _loss, draw_cut_out


def test_held_out_photographs_are_not_among_them():
    assert not set(photo_tiles.PHOTOS) & {*HELD_OUT_PHOTOS.values(), "camera.png"}


def test_tiles_are_pictures_of_their_size():
    for step in range(40):
        tile = photo_tiles.photo_tile(np.random.default_rng(step), 152)
        assert tile.shape == (152, 152, 3)
        assert tile.dtype == np.float32
        assert 0 <= tile.min() <= tile.max() <= 1
    small = photo_tiles.photo_tile(np.random.default_rng(0), 128, {"coins.png": 1.0})
    assert small.std() > 0.02


def test_cut_outs_have_a_style_and_no_shape():
    seen = set()
    for step in range(80):
        image, labels = draw_cut_out(np.random.default_rng(step))
        assert image.shape == (128, 128, 3)
        assert labels[:2] == (UNKNOWN, UNKNOWN)
        seen.add(LABELS["style"][labels[2]])
    assert seen == set(LABELS["style"])


def test_pictures_without_a_label_weigh_nothing():
    logits = torch.randn(4, 3, requires_grad=True)
    targets = torch.tensor([0, UNKNOWN, 2, UNKNOWN])
    torch.testing.assert_close(_loss(logits, targets), nn.functional.cross_entropy(logits[::2], targets[::2]))
    assert float(_loss(logits, torch.full((4,), UNKNOWN)).detach()) == 0
