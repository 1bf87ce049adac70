"""A sentence that is only a style."""

import pytest

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.grounding.language.bare_style import bare_style, parse_for_region

STYLES = ["pixel art", "neon", "oil paint", "mosaic", "watercolor"]


@pytest.mark.parametrize(
    ("sentence", "style"),
    [("pixel art", "pixel art"), ("Pixel-Art style", "pixel art"), ("a watercolour.", "watercolor"),
     ("in the style of oil painting", "oil paint"), ("in neon", "neon"), ('"mosaic"', "mosaic")],
)  # fmt: skip
def test_known_styles(sentence, style):
    assert bare_style(sentence, STYLES) == style
    (request,) = parse_for_region(sentence, STYLES).requests
    assert (request.style, request.selector.kind) == (style, "whole")


@pytest.mark.parametrize(
    "sentence", ["make the dog watercolor", "gothic", "pixel art and neon", "the dog", "", "neon, mosaic", "keep it"]
)
def test_what_says_more_or_less_is_no_bare_style(sentence):
    assert bare_style(sentence, STYLES) is None


@pytest.mark.parametrize("sentence", ["ukiyo-e", "old woodblock print", "in the style of Monet"])
def test_any_words_are_a_style_of_a_users_model(sentence):
    (request,) = parse_for_region(sentence).requests
    assert request.style in sentence


@pytest.mark.parametrize("sentence", ["make the dog watercolor", "the dog in watercolor", "turn it into ukiyo-e"])
def test_sentences_stay_sentences(sentence):
    assert bare_style(sentence) is None
    assert str(parse_for_region(sentence)).split(" -> ")[1].split(" ")[0] in ("watercolor", "ukiyo-e")


def test_what_keeps_something_is_no_style():
    assert bare_style("keep the dog") is None


def test_a_style_given_apart_counts():
    (request,) = parse_for_region("the dog", STYLES, "neon").requests
    assert (request.phrase, request.style) == ("dog", "neon")


@pytest.mark.parametrize("sentence", ["gothic", "", "neon, mosaic"])
def test_errors_name_the_styles_and_the_short_way(sentence):
    with pytest.raises(RegionStyleError, match="the style alone is enough") as error:
        parse_for_region(sentence, STYLES)
    assert "pixel art" in str(error.value)
