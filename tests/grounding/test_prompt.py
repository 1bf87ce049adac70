import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.grounding.prompt import Request, parse_prompt

STYLES = ["pixel art", "pencil sketch", "halftone", "posterised", "oil paint", "mosaic", "neon", "watercolor"]


@pytest.mark.parametrize(
    ("sentence", "phrase", "style"),
    [
        ("make the red star mosaic", "red star", "mosaic"),
        ("make the star pixel art", "star", "pixel art"),
        ("Make the blue circle a pencil sketch.", "blue circle", "pencil sketch"),
        ("turn the heart into watercolour", "heart", "watercolor"),
        ("paint the dog in an oil painting style", "dog", "oil paint"),
        ("make the sky look like pixel art", "sky", "pixel art"),
        ("apply halftone style to the coffee cup", "coffee cup", "halftone"),
        ("the ring in neon style", "ring", "neon"),
        ("please make the green cross posterized", "green cross", "posterised"),
        ("make the moon mosaic style", "moon", "mosaic"),
        ("turn the moon into pixel-art", "moon", "pixel art"),
    ],
)
def test_forms(sentence, phrase, style):
    assert parse_prompt(sentence, STYLES) == Request(phrase, style)


def test_free_styles_need_a_linking_word():
    assert parse_prompt("turn the dog into a ukiyo-e print") == Request("dog", "ukiyo-e print")
    with pytest.raises(RegionStyleError, match="expected one of"):
        parse_prompt("make the dog wonderful")


def test_style_given_apart():
    assert parse_prompt("red star", STYLES, "neon") == Request("red star", "neon")
    assert parse_prompt("make the red star mosaic", STYLES, "neon") == Request("red star", "neon")


@pytest.mark.parametrize("sentence", ["", "star", "make the star impressionist"])
def test_what_is_not_understood_is_said(sentence):
    with pytest.raises(RegionStyleError, match="mosaic"):
        parse_prompt(sentence, STYLES)


def test_an_unknown_style_lists_the_known_ones():
    with pytest.raises(RegionStyleError, match=r"cubism.*pixel art, pencil sketch"):
        parse_prompt("turn the star into cubism", STYLES)
