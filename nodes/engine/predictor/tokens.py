"""Where the words of a phrase stand among the tokens of an encoded prompt.

Positions come from the tokens that were really encoded, so templates, start tokens and weight syntax cannot shift them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from ..errors import wrong_input

if TYPE_CHECKING:
    from .base import Text

CLIP_END = "</w>"
SENTENCEPIECE_START = "\u2581"


def find_phrase(text: Text, phrase: str, index: int = 0) -> list[int]:
    """Positions of the phrase's tokens in text number `index`: its first occurrence, whole words only.

    Case and spaces do not matter. RegionStyleError, showing the tokens that are there, when the phrase is absent.
    """
    positions = [position for position, real in enumerate(text.valid[index].tolist()) if real]
    pieces = [text.pieces[index][position] for position in positions]
    letters, starts, ends = _spell(pieces)
    for wanted in _spellings(phrase):
        offset = _whole_words(letters, wanted, starts, ends)
        if offset is not None:
            return positions[starts[offset] : ends[offset + len(wanted)] + 1]
    shown = " ".join(piece.replace(CLIP_END, "") for piece in pieces) or "none"
    raise wrong_input("phrase", repr(phrase), f"words of the prompt (its tokens: {shown})", "Use the prompt's words.")


def _spell(pieces: list[str]) -> tuple[str, dict[int, int], dict[int, int]]:
    """All letters in a row; which offsets begin a word (-> its first piece), which end one (-> its last piece)."""
    letters, starts, ends = "", {}, {}
    for number, piece in enumerate(pieces):
        following = pieces[number + 1] if number + 1 < len(pieces) else SENTENCEPIECE_START
        if number == 0 or len(letters) in ends or piece.startswith(SENTENCEPIECE_START):
            starts[len(letters)] = number
        letters += piece.removesuffix(CLIP_END).replace(SENTENCEPIECE_START, "").lower()
        if piece.endswith(CLIP_END) or following.startswith(SENTENCEPIECE_START):
            ends[len(letters)] = number
    return letters, starts, ends


def _whole_words(letters: str, wanted: str, starts: dict[int, int], ends: dict[int, int]) -> int | None:
    """The first offset where `wanted` stands between a word's start and a word's end."""
    offset = letters.find(wanted) if wanted else -1
    while offset >= 0:
        if offset in starts and offset + len(wanted) in ends:
            return offset
        offset = letters.find(wanted, offset + 1)
    return None


def _spellings(phrase: str) -> tuple[str, str]:
    """The phrase without spaces as byte-pair tokenizers write it (one letter per byte), and as it stands."""
    plain = "".join(unicodedata.normalize("NFC", phrase).lower().split())
    return "".join(_byte_letters()[byte] for byte in plain.encode()).lower(), plain


@cache
def _byte_letters() -> tuple[str, ...]:
    """The printable stand-ins for the 256 bytes in the byte-pair code of GPT-2 and CLIP."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(spare)) for byte in range(256))
