"""What every sentence and every phrase is checked for before it is read: its length, and that it is plain language.

Signs with a meaning in other programs (prompt weights, LoRA tags, BREAK) have none here. They are refused by name:
read as words they would be looked for in the picture.
"""

from __future__ import annotations

import re
import unicodedata

from ...engine.errors import RegionStyleError, shortened, wrong_input

LONGEST_SENTENCE = 2500  # characters
LONGEST_PHRASE = 300  # characters of the words for one thing
MOST_PARTS = 100  # parts of a sentence between full stops, commas and "and"

_TAG = re.compile(r"<\s*(?:lora|lyco|lycoris|hypernet|embedding)\s*:[^<>]*>", re.IGNORECASE)
_EMBEDDING = re.compile(r"\bembedding:\S+", re.IGNORECASE)
_WEIGHT = re.compile(r"[(\[](?P<words>[^()\[\]]*):\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*[)\]]")
_EMPHASIS = re.compile(r"\({2,}(?P<words>[^()]*)\){2,}|\[{2,}(?P<less>[^\[\]]*)\]{2,}")
_BREAK = re.compile(r"\bBREAK\b")
_QUOTED = re.compile(r"(?<!\w)([\"'\u2018\u201c\u201e])(?:.+?)[\"'\u2019\u201d](?!\w)", re.DOTALL)
_HALF_PAIR = re.compile("[\ud800-\udfff]")


def check_words(text: str, name: str, longest: int = LONGEST_PHRASE) -> None:
    """`check_text`, and RegionStyleError when words hold signs of another program; what is in quotes is a name."""
    check_text(text, name, longest)
    # wide brackets and colons are brackets and colons too
    if foreign := _foreign(_QUOTED.sub('""', unicodedata.normalize("NFKC", text)), name):
        raise foreign


def check_text(text: str, name: str, longest: int = LONGEST_SENTENCE) -> None:
    """RegionStyleError when a text is longer than so many characters or holds half a character.

    name: the input it was given to.
    """
    if len(text) > longest:
        raise wrong_input(name, f"{len(text)} characters ({text!r})", f"at most {longest}", "Use fewer words.")
    if half := _HALF_PAIR.search(text):
        accepts = "text in which every character is whole"
        got = f"half of a character (a lone surrogate, {half[0]!r}) in {text!r}"
        raise wrong_input(name, got, accepts, "Type the words again; a program cut them in the middle of a character.")


def check_parts(count: int, name: str) -> None:
    """RegionStyleError when a text has more than `MOST_PARTS` parts between full stops, commas and "and"."""
    if count > MOST_PARTS:
        accepts = f"at most {MOST_PARTS}"
        got = f"{count} parts between full stops, commas and 'and'"
        raise wrong_input(name, got, accepts, "Name fewer things at a time, for example in several runs.")


def _foreign(text: str, name: str) -> RegionStyleError | None:
    """The error that names the first sign of another program in a text without its quoted parts."""
    plain = "plain words"
    if found := _TAG.search(text) or _EMBEDDING.search(text):
        remedy = "Leave it out, and attach the file itself: with Attach Style Expert, or --expert on the command line."
        return wrong_input(name, f"{found[0]!r}, a tag that loads a file in other programs", plain, remedy)
    if found := _WEIGHT.search(text) or _EMPHASIS.search(text):
        words = next((words for words in found.groups() if words), "").strip()
        remedy = f"Write {shortened(words, 60)!r} alone; how strongly a style acts is set by its strength."
        return wrong_input(name, f"{found[0]!r}, a prompt weight of other programs", plain, remedy)
    # in a sentence that is all in capitals it is a word like the others
    if _BREAK.search(text) and text.upper() != text:
        remedy = "Leave it out; join what belongs together by 'and', and other requests by a comma or a full stop."
        return wrong_input(name, "'BREAK', which divides prompts in other programs", plain, remedy)
    return None
