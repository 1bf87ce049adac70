"""Questions Q1 to Q4 of RegionRoute (arXiv:2602.19254), answered yes or no by a vision-language model.

The model is a function ask(image, question) -> reply: image `[1,3,H,W]` in 0..1, reply any text. The wording below is
this project's; the paper's is not known, nor how it chooses the opposite style, which is therefore given by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..engine.errors import wrong_input
from .checks import check_images
from .measurement import Measurement

Ask = Callable[[Tensor, str], str]
ENDING = "Answer with one word, yes or no."
_FIRST_WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class Question:
    """name: Q1 to Q4; better: whether a high share of yes is good; text with {thing} and {style}."""

    name: str
    better: str
    text: str
    opposite: bool

    def ask(self, thing: str, style: str) -> str:
        return f"{self.text.format(thing=thing, style=style)} {ENDING}"


_OBJECT = "Look only at the {thing} in this picture. Does it show {style} style?"
_BACKGROUND = "Look at everything except the {thing} in this picture. Does that surrounding show {style} style?"
QUESTIONS = (
    Question("Q1", "higher", _OBJECT, False),
    Question("Q2", "lower", _BACKGROUND, False),
    Question("Q3", "lower", _OBJECT, True),
    Question("Q4", "lower", _BACKGROUND, True),
)


@dataclass(frozen=True)
class Edit:
    """One result `[1,3,H,W]` with the words for the thing, the style asked for and a style that is its opposite."""

    image: Tensor
    thing: str
    style: str
    opposite: str


def read_answer(reply: str) -> bool:
    """True for yes, False for no; RegionStyleError for any reply that does not begin with either."""
    word = _FIRST_WORD.search(reply.strip().lower())
    if word is None or word[0] not in ("yes", "no"):
        shown = reply.strip()[:80]
        raise wrong_input("reply of the model", repr(shown), "yes or no", "Use a model that follows instructions.")
    return word[0] == "yes"


def ask_questions(
    ask: Ask, edits: Sequence[Edit], backbone: str, check: Callable[[], None] = lambda: None
) -> list[Measurement]:
    """The share of yes per question over all edits, Q1 to Q4. check: raises on cancel, called before each question."""
    if not edits:
        raise wrong_input("edits", "none", "one or more", "Give results to ask about.")
    counts = {question.name: 0 for question in QUESTIONS}
    for edit in edits:
        if len(check_images(edit.image)) != 1:
            raise wrong_input("image of an edit", f"{len(edit.image)} pictures", "one", "Ask about each by itself.")
        if not edit.thing.strip() or not edit.style.strip():
            raise wrong_input("edit", f"{edit.thing!r} in {edit.style!r}", "words for thing and style", "Name both.")
        if not edit.opposite or edit.opposite == edit.style:
            raise wrong_input("opposite style", repr(edit.opposite), f"not {edit.style!r}", "Name another style.")
        for question in QUESTIONS:
            check()
            style = edit.opposite if question.opposite else edit.style
            counts[question.name] += read_answer(ask(edit.image, question.ask(edit.thing, style)))
    return [Measurement(name, yes / len(edits), backbone, "0..1", len(edits)) for name, yes in counts.items()]
