"""What the nodes do with ComfyUI's values, without ComfyUI: typed boxes, core's boxes, and what may be connected."""

import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.grounding.comfy.box_values import boxes_per_picture, boxes_to_regions, numbers_in
from regionstyle.nodes.grounding.comfy.grounding import _only_source


@pytest.mark.parametrize(
    ("text", "count", "numbers"),
    [
        ("", 4, []),
        ("1, 2, 3, 4\n 5,6 ,7.5,8 \n", 4, [(1, 2, 3, 4), (5, 6, 7.5, 8)]),
        ("(1, 2); (3, 4)", 2, [(1, 2), (3, 4)]),
        ("[1, 2, 3, 4]", 4, [(1, 2, 3, 4)]),
        ("[7, 8]", 2, [(7, 8)]),
        ("[[7, 8], [9, 10]]", 2, [(7, 8), (9, 10)]),
        ('[{"startX": 30, "startY": 4, "endX": 10, "endY": 24}]', 4, [(10, 4, 30, 24)]),  # drawn from the right
        ('[{"x0": 1, "y0": 2, "x1": 3, "y1": 4}]', 4, [(1, 2, 3, 4)]),
        ('[{"x1": 1, "y1": 2, "x2": 3, "y2": 4}]', 4, [(1, 2, 3, 4)]),
        ('[{"x": 1, "y": 2, "w": 3, "h": 4}]', 4, [(1, 2, 4, 6)]),
        ('[{"left": 1, "top": 2, "right": 3, "bottom": 4}, [5, 6, 7, 8]]', 4, [(1, 2, 3, 4), (5, 6, 7, 8)]),
        ('{"xmin": 1, "ymin": 2, "xmax": 3, "ymax": 4, "label": "cat"}', 4, [(1, 2, 3, 4)]),
        ('{"x0": 1, "y0": 2, "width": 3, "height": 4}', 4, None),
        ('[{"x0": true, "y0": 2, "x1": 3, "y1": 4}]', 4, None),
        ('[["1", "2", "3", "4"]]', 4, None),
        ("[" * 3000, 4, None),
        ("5", 4, None),
        ("[[1, 2, 3, 4]]", 4, [(1, 2, 3, 4)]),
        ('[{"x": 3, "y": 4}]', 2, [(3, 4)]),
        ('{"x": 3, "y": 4, "width": 10, "height": 20}', 4, [(3, 4, 13, 24)]),
        ("1, 2, 3", 4, None),
        ("left, top", 2, None),
        ('[{"x": 3}]', 2, None),
        ("nan, 1", 2, None),
    ],
)
def test_typed_numbers(text, count, numbers):
    if numbers is None:
        with pytest.raises(RegionStyleError, match=f"boxes: got .*expected {count} numbers a line, for example"):
            numbers_in(text, count, "boxes")
    else:
        assert numbers_in(text, count, "boxes") == numbers


BOX = {"x": 1, "y": 2, "width": 3.5, "height": 4}


@pytest.mark.parametrize(
    ("value", "lists"),
    [
        (BOX, [[BOX], [BOX]]),
        ([BOX, BOX], [[BOX, BOX], [BOX, BOX]]),
        ([[BOX], []], [[BOX], []]),
        ([[BOX]], [[BOX], [BOX]]),
        ([], [[], []]),
        ([[]], [[], []]),
        ([1, 2, 3, 4], [[[1, 2, 3, 4]], [[1, 2, 3, 4]]]),
        ([[1, 2, 3, 4], [5, 6, 7, 8]], [[[1, 2, 3, 4], [5, 6, 7, 8]]] * 2),
        ([[(1, 2, 3, 4)], []], [[(1, 2, 3, 4)], []]),
    ],
)
def test_connected_boxes_in_all_their_forms(value, lists):
    assert boxes_per_picture(value, 2) == lists


@pytest.mark.parametrize("value", ["boxes", [[BOX], [BOX], [BOX]], [BOX, 3], {"x": 1}, [[BOX], [{"x": "a"}]], 5])
def test_other_values_are_refused(value):
    with pytest.raises(RegionStyleError, match="bboxes: got"):
        boxes_per_picture(value, 2)


def test_boxes_become_regions_and_an_empty_answer_stays_visible():
    labelled = {**BOX, "label": "cat", "score": 0.5}
    made = boxes_to_regions([], [[labelled], []], "thing", (20, 30), 2)
    assert [(r.phrase, r.box, r.score, r.image) for r in made] == [
        ("cat", (1, 2, 5, 6), 0.5, 0), ("thing", (0, 0, 0, 0), 0, 1),
    ]  # fmt: skip
    drawn = [{"startX": 9, "startY": 8, "endX": 4, "endY": 3}, [4, 5, 6, 7]]
    assert [r.box for r in boxes_to_regions([], drawn, "thing", (20, 30), 1)] == [(4, 3, 9, 8), (4, 5, 6, 7)]
    typed = boxes_to_regions([(1, 2, 3, 4)], None, "thing", (20, 30), 2)
    assert [(r.phrase, r.image) for r in typed] == [("thing", 0), ("thing", 1)]


def test_a_box_without_a_score_counts_fully_and_a_wrong_one_is_refused():
    assert boxes_to_regions([], [{**BOX, "score": None}], "thing", (20, 30), 1).items[0].score == 1
    for wrong in ("high", True, float("nan"), -1):
        with pytest.raises(RegionStyleError, match="score"):
            boxes_to_regions([], [{**BOX, "score": wrong}], "thing", (20, 30), 1)


def test_exactly_one_finder():
    none = {"detector": None, "vlm": None, "regions": None, "denoiser": (None, None, None)}
    assert _only_source({**none, "vlm": object()}) == "vlm"
    assert _only_source({**none, "denoiser": (1, 2, 3)}) == "denoiser"
    for wrong, words in (
        (none, "box finder: got nothing"),
        ({**none, "vlm": 1, "detector": 1}, "got detector and vlm"),
        ({**none, "vlm": 1, "denoiser": (1, 2, 3)}, "got vlm and model, clip and vae"),
        ({**none, "denoiser": (1, None, 3)}, "only model, vae"),
    ):
        with pytest.raises(RegionStyleError, match=words):
            _only_source(wrong)


def test_more_boxes_than_masks_have_room_are_refused_before_any_is_made():
    with pytest.raises(RegionStyleError, match="boxes: got 3000 for pictures of 1024 x 1024 .* at most 2048"):
        boxes_to_regions([(0, 0, 9, 9)] * 1000, [BOX] * 2000, "dot", (1024, 1024), 1)
    assert len(boxes_to_regions([(0, 0, 9, 9)] * 3000, None, "dot", (16, 16), 1)) == 3000
