"""What is not in the picture is not found, on the shipped tiny world and by hand-made maps and recognisers."""

import pytest
import torch

from regionstyle.nodes.app.evaluation.masks import held_out_scene
from regionstyle.nodes.app.evaluation.presence import (
    ABSENT,
    COLOUR,
    MIXED,
    PRESENT,
    SHAPE,
    evaluate_presence,
    questions,
)
from regionstyle.nodes.app.evaluation.scenes import demo_scene
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.language.instruction import EditRequest, Instruction
from regionstyle.nodes.grounding.finders.attention_finder import ground_by_attention, regions_by_attention
from regionstyle.nodes.grounding.finders.presence import check_known, find_present, kept_if_sure, shown_parts
from regionstyle.nodes.grounding.settings import AttentionSettings
from regionstyle.nodes.tinyworld.bundled import load_predictor
from regionstyle.nodes.tinyworld.recogniser import TinyRecogniser


class Placed:
    """A recogniser of a picture whose things are known by the left end of their boxes."""

    least = 0.5

    def __init__(self, things):
        self.things, self.asked = things, []

    def unknown_words(self, phrase):
        return [word for word in phrase.split() if word == "asdf"]

    def vocabulary(self):
        return "left and right things"

    def probability(self, image, box, phrase):
        self.asked.append((box, phrase))
        meant = self.completions(image, phrase) or [phrase]
        return 0.9 if self.describe(image, box) in meant else 0.1

    def describe(self, image, box):
        return next((name for edge, name in self.things if box[0] <= edge < box[2]), "nothing")

    def completions(self, image, phrase):
        return ["right thing"] if phrase == "thing" else []


def bump(left, right, high=4.0):
    logodds = torch.full((16, 32), -4.0)
    logodds[4:12, left:right] = high
    return logodds


LEFT, RIGHT = bump(2, 10), bump(20, 28)
IMAGE, SETTINGS = torch.zeros(1, 3, 16, 32), AttentionSettings()
TWO = [(5, "left thing"), (23, "right thing")]


def test_a_place_that_shows_something_else_is_named_and_looked_past():
    captions = []

    def look(phrase, caption):
        captions.append(caption)
        alone = "left" not in caption or phrase == "left thing"
        return LEFT if alone and phrase != "right thing" or caption == "a right thing" else RIGHT

    found = find_present(look, IMAGE, "right thing", Placed(TWO), SETTINGS)
    assert found.found
    assert torch.equal(found.mask > 0.5, RIGHT > 0)
    assert captions[:2] == ["a right thing", "a right thing and a left thing"]
    assert found.score == 0.9


def test_what_nothing_shows_is_not_found_and_leaves_an_empty_mask():
    found = find_present(lambda phrase, caption: LEFT, IMAGE, "blue thing", Placed(TWO), SETTINGS)
    assert not found.found
    assert not found.mask.any()
    assert found.score == 0.1


def test_only_the_parts_that_show_the_thing_are_kept():
    both = torch.maximum(LEFT, RIGHT) / 8 + 0.5
    shown = shown_parts(IMAGE, both.clamp(0, 1), "right thing", Placed([(5, "left thing"), (23, "right thing")]))
    assert torch.equal(shown.mask > 0.5, RIGHT > 0)
    assert not shown.instead


def test_a_phrase_that_leaves_something_open_is_found_under_a_fuller_name():
    maps = {"thing": LEFT, "left thing": LEFT, "right thing": RIGHT}
    found = find_present(lambda phrase, caption: maps[phrase], IMAGE, "thing", Placed(TWO), SETTINGS)
    assert torch.equal(found.mask > 0.5, RIGHT > 0)


def test_a_score_below_what_is_asked_for_is_not_found():
    found = find_present(lambda phrase, caption: RIGHT, IMAGE, "right thing", Placed(TWO), SETTINGS)
    assert kept_if_sure(found, 0.9) is found
    left_out = kept_if_sure(found, 0.95)
    assert not left_out.found
    assert not left_out.mask.any()
    assert left_out.score == 0.9


def test_an_empty_mask_shows_nothing():
    shown = shown_parts(IMAGE, torch.zeros(16, 32), "left thing", Placed(TWO))
    assert shown.probability == 0
    assert not shown.instead


def test_unknown_words_are_named():
    with pytest.raises(RegionStyleError, match="does not know 'asdf'"):
        check_known("left asdf", Placed(TWO))


@pytest.fixture(scope="module")
def predictor():
    return load_predictor(LocalHost("cpu"))


def picture(made):
    return torch.from_numpy(made.image.copy()).permute(2, 0, 1)[None]


@pytest.mark.parametrize("phrase", ["asdf", "the sky", "elephant"])
def test_the_tiny_world_refuses_words_it_was_never_taught(predictor, phrase):
    image = picture(demo_scene(10))
    with pytest.raises(RegionStyleError, match="does not know"):
        ground_by_attention(predictor, image, phrase)
    with pytest.raises(RegionStyleError, match="does not know"):
        regions_by_attention(predictor, image, Instruction((EditRequest(phrase, "", phrase.removeprefix("the ")),)))


@pytest.mark.slow
def test_the_bundled_scene_has_no_purple_moon_but_a_triangle(predictor):
    """The picture of the shipped workflows: an orange triangle and a blue ring."""
    image = picture(demo_scene(10))
    for phrase in ("purple moon", "green heart", "blue triangle"):
        found = ground_by_attention(predictor, image, phrase)
        assert not found.found, phrase
        assert not found.mask.any()
    triangle, ring = demo_scene(10).objects
    for phrase, thing in (("triangle", triangle), ("ring", ring), ("blue object", ring)):
        mask, truth = ground_by_attention(predictor, image, phrase).mask > 0.5, torch.from_numpy(thing.mask) > 0.5
        assert (mask & truth).sum() / (mask | truth).sum() > 0.7, phrase


def test_without_a_recogniser_attention_alone_decides(predictor):
    image = picture(demo_scene(10))
    bare = load_predictor(LocalHost("cpu"))
    bare.recogniser = None
    assert ground_by_attention(bare, image, "purple moon").found
    assert predictor.recogniser is not None


def test_a_crop_tells_pairs_from_mixtures():
    recogniser = TinyRecogniser()
    made = demo_scene(10)
    for thing in made.objects:
        own = recogniser.probability(picture(made), thing.box, thing.phrase)
        assert own > recogniser.least
        assert recogniser.describe(picture(made), thing.box) == thing.phrase
        assert recogniser.probability(picture(made), thing.box, thing.shape) > recogniser.least
        assert recogniser.probability(picture(made), thing.box, f"{thing.color} object") > recogniser.least
    (triangle, ring) = made.objects
    for thing in made.objects:
        for phrase in (f"{triangle.color} {ring.shape}", f"{ring.color} {triangle.shape}"):
            assert recogniser.probability(picture(made), thing.box, phrase) < recogniser.least


def test_questions_name_what_is_there_and_what_is_not():
    made = held_out_scene(3)
    there = {thing.phrase for thing in made.objects}
    for question in questions(made, 3):
        assert (question.phrase in there) == (question.row == PRESENT)
        assert (question.thing is None) == (question.row in (ABSENT, MIXED))


@pytest.mark.slow
def test_shares_on_held_out_scenes():
    rows = evaluate_presence(LocalHost("cpu"), 24)["rows"]
    assert rows[ABSENT]["share"] <= 0.05
    assert rows[PRESENT]["share"] >= 0.85
    assert rows[COLOUR]["share"] >= 0.85
    assert rows[SHAPE]["share"] >= 0.6
