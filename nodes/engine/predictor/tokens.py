"""Where the words of a phrase stand among the tokens of an encoded prompt.

Positions come from the tokens that were really encoded, so templates, start tokens and weight syntax cannot shift them:
the letters of the pieces are laid in a row, and a phrase is found by its place in that row. Both sides are compared
letter by letter after case folding; nothing is tokenised a second time in another case.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import cache
from typing import TYPE_CHECKING

from ..errors import wrong_input

if TYPE_CHECKING:
    from .base import Text

CLIP_END = "</w>"
SENTENCEPIECE_START = "\u2581"
# Innermost parentheses of ComfyUI's weight syntax, with or without a number: (cat), (cat:1.2).
_WEIGHTED = re.compile(r"\(([^()]*?)(?::\s*[-+]?(?:\d+\.?\d*|\.\d+))?\)")
_ESCAPED = {"\\(": "\x00", "\\)": "\x01"}


def find_phrase(text: Text, phrase: str, index: int = 0) -> list[int]:
    """Positions of the phrase's tokens in text number `index`: its first occurrence, whole words only.

    Case and spaces do not matter, nor weights in the phrase: "(cat:1.2)" is "cat". RegionStyleError, showing the tokens
    that are there, when the phrase is absent.
    """
    found = next(_occurrences(text, phrase, index, 0, text.valid.shape[1]), None)
    if found is None:
        raise _absent(text, phrase, index)
    return found


def find_tokens(text: Text, phrase: str, index: int = 0, *, every: bool = False) -> list[int]:
    """Positions of a phrase in the tokens of every encoder that read the prompt (`Text.parts`), in rising order.

    SD3 holds each word twice, once of CLIP and once of T5, and both are attended to. every: all occurrences, not only
    the first of each encoder. RegionStyleError, showing the tokens that are there, when none of them has the phrase.
    """
    positions: set[int] = set()
    for start, stop in _ranges(text):
        for found in _occurrences(text, phrase, index, start, stop):
            positions.update(found)
            if not every:
                break
    if not positions:
        raise _absent(text, phrase, index)
    return sorted(positions)


def shown_tokens(text: Text, marked: Collection[int] = (), index: int = 0) -> str:
    """The words' tokens with their positions, to be read: "1 a, 2 [red], 3 [star]", marked ones in brackets."""
    shown = []
    for position, real in enumerate(text.valid[index].tolist()):
        if real:
            piece = _readable(text.pieces[index][position])
            shown.append(f"{position} [{piece}]" if position in marked else f"{position} {piece}")
    return ", ".join(shown)


def without_weights(words: str) -> str:
    r"""Words without ComfyUI's weight syntax: "(a (red:1.3) cat:0.8)" is "a red cat"; \( and \) are parentheses."""
    for escape, stand_in in _ESCAPED.items():
        words = words.replace(escape, stand_in)
    before = None
    while before != words:
        before, words = words, _WEIGHTED.sub(r"\1", words)
    return words.replace("\x00", "(").replace("\x01", ")")


def _ranges(text: Text) -> list[tuple[int, int]]:
    """First and last-but-one position of each encoder's tokens."""
    lengths = text.parts or (text.valid.shape[1],)
    return [(sum(lengths[:number]), sum(lengths[: number + 1])) for number in range(len(lengths))]


def _occurrences(text: Text, phrase: str, index: int, start: int, stop: int) -> Iterator[list[int]]:
    """Positions of each occurrence of a phrase between two positions, in their order."""
    real = text.valid[index].tolist()
    positions = [position for position in range(start, stop) if real[position]]
    letters, starts, ends = _spell([text.pieces[index][position] for position in positions])
    for wanted in _spellings(phrase):
        offset, seen = _whole_words(letters, wanted, starts, ends), False
        while offset is not None:
            seen = True
            yield positions[starts[offset] : ends[offset + len(wanted)] + 1]
            offset = _whole_words(letters, wanted, starts, ends, offset + len(wanted))
        if seen:
            return


def _absent(text: Text, phrase: str, index: int) -> Exception:
    real = text.valid[index].tolist()
    pieces = [piece for piece, word in zip(text.pieces[index], real, strict=True) if word]
    shown = " ".join(_readable(piece) for piece in pieces) or "none"
    return wrong_input("phrase", repr(phrase), f"words of the prompt (its tokens: {shown})", "Use the prompt's words.")


def _readable(piece: str) -> str:
    return piece.replace(CLIP_END, "").replace(SENTENCEPIECE_START, "") or "_"


def _spell(pieces: list[str]) -> tuple[str, dict[int, int], dict[int, int]]:
    """All letters in a row; which offsets begin a word (-> its first piece), which end one (-> its last piece)."""
    letters = ""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for number, piece in enumerate(pieces):
        following = pieces[number + 1] if number + 1 < len(pieces) else SENTENCEPIECE_START
        if number == 0 or len(letters) in ends or piece.startswith(SENTENCEPIECE_START):
            starts.setdefault(len(letters), number)  # a word's mark may be a piece of its own, without a letter
        letters += piece.removesuffix(CLIP_END).replace(SENTENCEPIECE_START, "").casefold()
        if piece.endswith(CLIP_END) or following.startswith(SENTENCEPIECE_START):
            ends[len(letters)] = number
    return letters, starts, ends


def _whole_words(letters: str, wanted: str, starts: dict[int, int], ends: dict[int, int], after: int = 0) -> int | None:
    """The first offset from `after` on where `wanted` stands between a word's start and a word's end."""
    offset = letters.find(wanted, after) if wanted else -1
    while offset >= 0:
        if offset in starts and offset + len(wanted) in ends:
            return offset
        offset = letters.find(wanted, offset + 1)
    return None


def _spellings(phrase: str) -> list[str]:
    """The phrase without spaces as byte-pair tokenizers write it (one letter per byte), and as it stands; each without
    weights first, since parentheses may be letters of the prompt."""
    spellings: list[str] = []
    for words in (without_weights(phrase), phrase):
        composed = "".join(unicodedata.normalize("NFC", words).split())
        spellings.append("".join(_byte_letters()[byte] for byte in composed.lower().encode()).casefold())
        spellings.append(composed.casefold())
    return list(dict.fromkeys(spellings))


@cache
def _byte_letters() -> tuple[str, ...]:
    """The printable stand-ins for the 256 bytes in the byte-pair code of GPT-2 and CLIP."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))
