"""What is said of a result that is its source, or that no expert had a part in."""

import pytest
import torch

from regionstyle.nodes.engine.adapters.acting import joined_reasons
from regionstyle.nodes.engine.region.unchanged import empty_masks, why_unchanged

BEFORE = torch.linspace(0, 0.9, 3 * 3 * 4 * 4).reshape(3, 3, 4, 4)
MASKS = torch.ones(3, 4, 4)


def changed(index, by):
    after = BEFORE.clone()
    after[index, 0, 0, 0] += by
    return after


@pytest.mark.parametrize(
    ("after", "masks", "said"),
    [
        (BEFORE + 0.05, MASKS, ""),
        (BEFORE + 0.05, None, ""),
        (BEFORE, None, "nothing changed, the result equals the input bit for bit: image 0, 1, 2"),
        (changed(1, 0.1), MASKS, "nothing changed, the result equals the input bit for bit: image 0, 2"),
        (
            changed(1, 1e-4),
            torch.stack([torch.zeros(4, 4), torch.ones(4, 4), torch.ones(4, 4)]),
            "empty mask, unchanged: image 0\n"
            "nothing changed, the result equals the input bit for bit: image 2\n"
            "nothing changed that a picture of 8 bits could show: image 1",
        ),
    ],
)
def test_pictures(after, masks, said):
    assert why_unchanged(BEFORE, after, masks) == said


def test_masks_that_select_nothing():
    masks = torch.zeros(3, 4, 4)
    masks[1, 2, 2] = 0.01
    assert empty_masks(masks) == "empty mask: image 0, 2"
    assert empty_masks(masks[1]) == ""
    assert empty_masks(masks[0]) == "empty mask: image 0"


def test_one_place_that_can_be_seen_is_enough():
    assert why_unchanged(BEFORE[:1], changed(0, 1 / 255)[:1]) == ""


def test_experts_that_had_no_part():
    idle = {"neon": "its strength is 0", "mosaic": ""}
    assert why_unchanged(BEFORE, BEFORE + 0.05, MASKS, idle) == "style expert 'neon' did not act: its strength is 0"
    assert why_unchanged(BEFORE, BEFORE, MASKS * 0, idle) == "empty mask, unchanged: image 0, 1, 2"


def test_who_acted_in_one_region_has_acted():
    parts = [{"a": "off", "b": "off"}, {"a": "", "c": ""}, {"a": "off", "b": "far"}]
    assert joined_reasons(parts) == {"a": "", "b": "off", "c": ""}
    assert joined_reasons([]) == {}
