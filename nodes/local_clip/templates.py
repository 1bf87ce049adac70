"""Sentences that carry a style's words into CLIP: an average over many says what they have in common.

Our own list, of the kind that CLIP's zero-shot classification made usual: medium, framing, quality and article vary.
"""

from __future__ import annotations

from itertools import product

SOURCE = "a Photo"  # the style that a picture has before (LEAST, section 3.2)

_FRAMES = ("{}", "{} seen from near", "{} seen from far", "{} cut out", "{} in the middle", "{} over everything")
_MEDIA = ("a picture of {}", "an image showing {}", "a rendition of {}", "an artwork of {}", "a view of {}")
_QUALITIES = ("a sharp", "a soft", "a bright", "a dark", "a large", "a small", "a careful", "a quick", "the best")
_NOUNS = ("picture of {}", "detail of {}", "piece of {}")


def _sentences() -> tuple[str, ...]:
    framed = [medium.format(frame) for medium, frame in product(_MEDIA, _FRAMES)]
    judged = [f"{quality} {noun}" for quality, noun in product(_QUALITIES, _NOUNS)]
    return (*framed, *judged, "{}", "this is {}", "it looks like {}", "everything here is {}", "nothing but {}")


TEMPLATES = _sentences()  # 62 sentences


def in_sentences(words: str, templates: tuple[str, ...] = TEMPLATES) -> list[str]:
    """Every sentence with the words in its place; braces in the words stay what they are."""
    return [template.replace("{}", words) for template in templates]
