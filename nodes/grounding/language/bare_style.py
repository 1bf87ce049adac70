"""A sentence that is only a style, "pixel art": enough where the region is given and need not be named."""

from __future__ import annotations

from collections.abc import Sequence

from ...engine.errors import RegionStyleError
from ...engine.language.instruction import Instruction
from .clause_forms import split_verb
from .prompt import parse_sentence, read_sentence
from .style_names import LONGEST_NAME, all_names, clean_style, ends_as_style, key, normal_style
from .written_words import LONGEST_SENTENCE, check_words

MARKS = ",;\n"  # between several things or commands, which a style alone has none of
WHOLE = "everything"  # how a sentence names whatever the region shows


def bare_style(sentence: str, styles: Sequence[str] | None = None) -> str | None:
    """The style that a sentence consists of, as the models call it; None for a sentence that says more, or less.

    styles: the names that are known (None: any words without a command are a style). "in the style of Monet", "a
    watercolor" and "Pixel-Art style" are bare styles too.
    """
    check_words(sentence, "sentence", LONGEST_SENTENCE)
    words = _words(sentence)
    if not words or any(mark in words for mark in MARKS) or len(words.split()) > LONGEST_NAME:
        return None
    if styles is not None:
        name = normal_style(words, styles)
        return name if name in styles else None
    if key(words) in all_names(None):
        return words
    return words if not split_verb(words)[0] and not _names_a_thing(sentence) else None


def parse_for_region(sentence: str, styles: Sequence[str] | None = None, style: str | None = None) -> Instruction:
    """`parse_sentence` for a region that is given: a bare style counts for all that it shows.

    RegionStyleError as there; where no sentence was understood it names the styles.
    """
    bare = None if style is not None else bare_style(sentence, styles)
    if bare is None:
        return _parsed(sentence, styles, style)
    return parse_sentence(WHOLE, styles, bare)


def _parsed(sentence: str, styles: Sequence[str] | None, style: str | None) -> Instruction:
    try:
        return parse_sentence(sentence, styles, style)
    except RegionStyleError as error:
        raise RegionStyleError(f"{error} With a region given, the style alone is enough.") from error


def _words(sentence: str) -> str:
    """A sentence without what is said around a style."""
    words = " ".join(sentence.strip().strip(".!?\"'").split()) if "\n" not in sentence.strip() else sentence
    return clean_style(words[3:] if words.lower().startswith("in ") else words)


def _names_a_thing(sentence: str) -> bool:
    """Whether it can be read as a thing and its style, "the red car watercolor"; "old woodblock print" is a style."""
    read = read_sentence(sentence)
    return bool(read.kept) or bool(read.requests) and not read.unread and not ends_as_style(sentence.strip(" .!?"))
