"""What a model is told to draw in a region: one prompt for every way that leads to a restyled region."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import wrong_input
from .nouns import article
from .region_words import clean_region, region_request, without_determiners

TEMPLATE = "a {phrase} in {style} style"
AREA, AREA_BESIDE_THINGS = "picture", "background"
_ARTICLE = re.compile(r"\b(a)n?(?= \{phrase\})", re.IGNORECASE)  # of the thing, in a template


def region_prompt(phrases: Sequence[str], style: str, template: str = TEMPLATE) -> str:
    """The prompt of the region that these phrases name, in a style; template: with {style} and, usually, {phrase}.

    A text encoder knows things and no places, so each phrase is told as its noun: "the leftmost cat" and "two cats"
    are "cat", each noun once. The background, everything but a thing, and the whole picture show whatever is there:
    alone they are "picture", beside a thing of the same region "background" ("a dog and background in neon style").
    No phrases: "picture". An article that the template has before the phrase fits it: "an orange triangle". (The tiny
    world has learnt "a orange triangle"; restyled orange things come out as well.)

    RegionStyleError when the template has no place for the style.
    """
    if "{style}" not in template:
        accepts = "{style} in it, and {phrase} where the thing belongs"
        raise wrong_input("template", repr(template), accepts, f"Use for example {TEMPLATE!r}.")
    subject = _subject(phrases)
    template = _ARTICLE.sub(lambda found: found[1] + article(subject)[1:], template)
    return template.replace("{phrase}", subject).replace("{style}", style)


def _subject(phrases: Sequence[str]) -> str:
    """The nouns of the phrases, joined."""
    nouns = [noun_of(phrase) for phrase in phrases]
    things = [noun for noun in dict.fromkeys(nouns) if noun]
    if not things:
        return AREA
    return " and ".join([*things, *([AREA_BESIDE_THINGS] if None in nouns else [])])


def noun_of(phrase: str) -> str | None:
    """The thing a phrase names without article, number and position; None for an area such as the background, and for
    no words at all."""
    request = region_request(phrase, "")
    if request is None:  # a name that is no noun, such as "a", is told as it is
        return without_determiners(clean_region(phrase))[0] or None
    return request.query if request.selector.kind == "thing" else None
