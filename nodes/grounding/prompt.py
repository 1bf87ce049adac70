"""From a sentence to a request: which thing shall get which style.

Deterministic forms, no language model: "make the red star pixel art", "turn the dog into a watercolor",
"paint the sky like pixel art", "apply halftone style to the cup", "the heart in mosaic style".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.errors import RegionStyleError

# Other ways people write a style's name -> the name.
ALIASES = {
    "pixel": "pixel art",
    "pixelated": "pixel art",
    "pixelart": "pixel art",
    "8-bit": "pixel art",
    "pencil": "pencil sketch",
    "sketch": "pencil sketch",
    "sketched": "pencil sketch",
    "drawing": "pencil sketch",
    "half-tone": "halftone",
    "newspaper": "halftone",
    "posterized": "posterised",
    "poster": "posterised",
    "posterise": "posterised",
    "posterize": "posterised",
    "oil": "oil paint",
    "oil painting": "oil paint",
    "oil-paint": "oil paint",
    "tiles": "mosaic",
    "tiled": "mosaic",
    "water color": "watercolor",
    "watercolour": "watercolor",
    "water colour": "watercolor",
    "glowing neon": "neon",
}
_VERB = r"(?:please\s+)?(?:make|turn|paint|render|draw|restyle|stylize|stylise|change|show)"
_LINK = r"(?:(?:look\s+)?like|look|in|into|as|to|with|using)"
_FORMS = (
    rf"{_VERB}\s+(?P<thing>.+?)\s+{_LINK}\s+(?P<style>.+)",
    r"(?:please\s+)?apply\s+(?P<style>.+?)\s+to\s+(?P<thing>.+)",
    r"(?P<thing>.+?)\s+(?:in|like|as)\s+(?P<style>.+)",
)
FORMS_SHOWN = (
    '"make the THING STYLE", "turn the THING into STYLE", "apply STYLE to the THING", "the THING in STYLE style"'
)


@dataclass(frozen=True)
class Request:
    """phrase: the thing, without its article; style: the style's name."""

    phrase: str
    style: str


def normal_style(words: str, styles: Sequence[str] | None = None) -> str:
    """A style's name without articles and a trailing "style"; aliases resolved, hyphens where the names have them."""
    words = re.sub(r"^(?:an?|the)\s+", "", words.strip().lower().rstrip(".!"))
    words = re.sub(r"\s+(?:style|look|effect)$", "", words).strip(" '\"")
    for spelling in (words, words.replace("-", " ")):
        if spelling in ALIASES or spelling in (styles or ()):
            return ALIASES.get(spelling, spelling)
    return words


def normal_phrase(words: str) -> str:
    """A thing's phrase without article and closing punctuation."""
    return re.sub(r"^(?:an?|the|this|that)\s+", "", words.strip(" '\".!").lower()).strip()


def _known_at_end(prompt: str, styles: Sequence[str]) -> Request | None:
    """ "make the THING STYLE" with a style from a list, which needs no linking word."""
    found = re.fullmatch(rf"{_VERB}\s+(?P<rest>.+)", prompt, re.IGNORECASE)
    words = found["rest"].split() if found else []
    for split in range(1, len(words)):  # the longest style name wins
        style = normal_style(" ".join(words[split:]), styles)
        if style in styles:
            thing = re.sub(rf"\s+{_LINK}$", "", " ".join(words[:split]), flags=re.IGNORECASE)
            return Request(normal_phrase(thing), style)
    return None


def parse_prompt(prompt: str, styles: Sequence[str] | None = None, style: str | None = None) -> Request:
    """The request in a sentence.

    styles: the names that are known (None: any words are a style); style: given apart, then the sentence may be only
    the thing. RegionStyleError showing what was understood when a part is missing or the style is unknown.
    """
    text = " ".join(prompt.split())
    asked = None if style is None else _checked_style(normal_style(style, styles), styles, text)
    found = _known_at_end(text, styles) if styles else None
    for form in _FORMS:
        match = None if found else re.fullmatch(form, text, re.IGNORECASE)
        found = Request(normal_phrase(match["thing"]), normal_style(match["style"], styles)) if match else found
    if found is None and asked is not None:
        verbless = re.sub(rf"^{_VERB}\s+", "", text, flags=re.IGNORECASE)
        found = Request(normal_phrase(verbless), asked)
    if found is None or not found.phrase:
        raise RegionStyleError(
            f"prompt: got {prompt!r}, expected one of: {FORMS_SHOWN}."
            + (f" Known styles: {', '.join(styles)}." if styles else " Or give the style apart.")
        )
    return Request(found.phrase, asked or _checked_style(found.style, styles, text))


def _checked_style(style: str, styles: Sequence[str] | None, prompt: str) -> str:
    if styles is not None and style not in styles:
        raise RegionStyleError(
            f"style: got {style!r} (from {prompt!r}), expected one of: {', '.join(styles)}. Choose one of these."
        )
    return style
