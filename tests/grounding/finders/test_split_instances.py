"""Things of one name that touch are told apart; one thing stays one thing."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.app.evaluation.masks import held_out_scene
from regionstyle.nodes.app.evaluation.scenes import as_image
from regionstyle.nodes.engine.errors import Cancelled
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.region.inner_points import inner_points
from regionstyle.nodes.engine.region.regions import region_of
from regionstyle.nodes.grounding.finders.sam import SamMask, SamNetwork, SamSegmenter, encode, soft_iou
from regionstyle.nodes.grounding.finders.split_instances import _distinct, split_instances
from regionstyle.nodes.grounding.finders.text_grounding import Detections, segment_all
from regionstyle.nodes.grounding.language.prompt import parse_regions
from regionstyle.nodes.tinyworld.tiny_sam import load_tiny_sam

HOST = LocalHost("cpu")
# Held-out scenes in which the first two things have one shape and touch.
TWINS = (645, 660, 695, 697, 699, 707, 708, 718)


@pytest.fixture(scope="module")
def network():
    return SamNetwork(load_tiny_sam(), "tinyworld/sam")


def truth(made, *indices):
    return torch.from_numpy(np.max([made.objects[at].mask for at in indices], axis=0))


def test_touching_things_get_a_mask_each(network):
    """Most of them: a network of 1.2 million parameters is no vit_h."""
    told = []
    for number in TWINS:
        made = held_out_scene(number)
        segmenter = SamSegmenter(encode(network, as_image(made), HOST), HOST)
        found = split_instances(truth(made, 0, 1), segmenter, 0)
        told += [max((soft_iou(one.soft, truth(made, at)) for one in found), default=0) > 0.7 for at in (0, 1)]
    assert np.mean(told) >= 0.75, told


@pytest.mark.parametrize("number", TWINS)
def test_one_thing_is_not_taken_apart(network, number):
    made = held_out_scene(number)
    segmenter = SamSegmenter(encode(network, as_image(made), HOST), HOST)
    assert len(split_instances(truth(made, 0), segmenter, 0)) < 2


@pytest.mark.parametrize("joined", [True, False])
def test_a_sentence_chooses_among_touching_things(network, joined):
    """Only where the finder says that its parts may be several things: a user's own region stays whole."""
    made = held_out_scene(660)
    embedding, part = encode(network, as_image(made), HOST), region_of("circle", truth(made, 0, 1))
    look = Detections(parse_regions("the topmost circle"), lambda query, apart: [part], joined)
    found = segment_all([look], embedding, HOST).regions
    assert (soft_iou(found.items[0].mask, truth(made, 1)) > 0.7) == joined


def test_of_two_masks_of_one_thing_the_surer_one_is_kept():
    part = torch.zeros(20, 30, dtype=torch.bool)
    part[5:15, 2:28] = True

    def answer(left, right, iou, rows=slice(5, 15)):
        logits = torch.full((20, 30), -9.0)
        logits[rows, left:right] = 9.0
        return SamMask(logits, iou)

    one, again, other = answer(2, 15, 0.9), answer(3, 15, 0.8), answer(15, 28, 0.7)
    speck, beside = answer(20, 22, 0.6, slice(5, 8)), answer(2, 28, 0.5, slice(16, 20))
    assert _distinct([one, again, other, speck, beside], part) == [one, other]
    assert _distinct([speck], part) == []
    assert _distinct([], part) == []


def test_points_lie_inside_and_apart():
    mask = torch.zeros(40, 60)
    mask[5:35, 5:55] = 1
    points = inner_points(mask, 6)
    assert len(points) == len(set(points)) == 6
    assert all(7 <= x < 53 and 7 <= y < 33 for x, y in points)
    assert min(np.hypot(a[0] - b[0], a[1] - b[1]) for a in points for b in points if a != b) > 8
    assert inner_points(torch.zeros(8, 8), 3) == []
    line = torch.zeros(8, 8)
    line[4, 2:6] = 1
    assert all(y == 4 for _, y in inner_points(line, 3)), "a thin mask has no deeper places"


def test_points_reach_both_ends_of_a_long_row():
    across = [x for x, _ in inner_points(torch.ones(30, 2000), 6)]
    assert min(across) < 100
    assert max(across) > 1900


def test_cancel_stops_between_two_points(network):
    made = held_out_scene(645)
    embedding = encode(network, as_image(made), HOST)
    with pytest.raises(Cancelled):
        split_instances(truth(made, 0), SamSegmenter(embedding, LocalHost("cpu", cancelled=lambda: True)), 0)
