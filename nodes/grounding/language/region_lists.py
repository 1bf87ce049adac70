"""Several regions in one list of words, and words that are no region: what was not said is not looked for."""

from __future__ import annotations

import re
from functools import lru_cache

from ...engine.language.nouns import DETERMINERS, singular_noun
from ...engine.language.region_words import NUMBERS, ORDINALS, RANK_WORDS, region_request
from .written_words import LONGEST_PHRASE

# Words that describe a noun: what follows them is the noun, never a style and never a thing of its own.
_ADJECTIVES = (
    "red orange yellow green cyan blue purple pink black white brown gray grey big small large little tiny tall short "
    "old young new left right top bottom middle upper lower last other whole entire leftmost rightmost largest "
    "smallest biggest nearest farthest"
)
DESCRIBING = frozenset(_ADJECTIVES.split()) | {*NUMBERS, *ORDINALS}
_DET = rf"(?:{'|'.join(sorted(DETERMINERS))})"
_JOINT = re.compile(rf"\s*,\s*(?:and\s+)?(?={_DET}\s)|\s+(?:and|as\s+well\s+as)\s+(?={_DET}\s)", re.IGNORECASE)
_WORD_JOINT = r"\s*,\s*(?:and\s+)?|\s+and\s+"
# "man and woman", "dog, cat and bird": one word each; "black and white cat" is one thing.
_WORDS = re.compile(
    rf"(?:(?P<det>{_DET})\s+)?(?P<words>[^\s,]+(?:\s*,\s*[^\s,]+)*\s*,?\s+and\s+[^\s,]+)", re.IGNORECASE
)
# "first and third star", "the leftmost and the rightmost cats"
_RANK = rf"(?:the\s+)?(?:{RANK_WORDS}|left|right|top|bottom|upper|lower|middle)"
_RANKS = re.compile(
    rf"(?P<ranks>{_RANK}(?:\s*,\s*{_RANK})*\s*,?\s+and\s+{_RANK})\s+(?P<noun>(?!and\b|of\b).+)", re.IGNORECASE
)
_ONE_AREA = re.compile(
    r"\bbetween\b|^(?:everything|all)\s+(?:but|except|apart|besides|outside|around|other)\b", re.IGNORECASE
)
_NEGATED = re.compile(r"^(?:no|none|neither|never|zero)\b|\b(?:not|except|excluding|but|or|either)\b", re.IGNORECASE)
_DEGREE = "very|really|quite|slightly|somewhat|partly|fully|completely|extremely|more|less"
_LOOSE = "and|or|of|to|from|in|at|with|by|for|as"
_NO_NOUN = re.compile(
    rf"(?:{_LOOSE})\b.*|(?:.*\s)?(?:{_LOOSE}|an?|the|should|must|shall|be|{_DEGREE}|\d+%)|half\s+of\s.*|"
    r".*\sfrom\s+(?:the\s+)?(?:left|right|top|bottom)|.*\s(?:left|right|#\d+|number\s+\w+)|"
    rf"(?:{RANK_WORDS}|left|right|ones?|them|they|these|those|something|anything|\d+)",
    re.IGNORECASE,
)
_ALSO_NOUNS = frozenset(("orange", "top", "bottom"))
_PART_OF = re.compile(r"(?:half|side|part|corner|edge|third)\s+of\s", re.IGNORECASE)
_EVERY_NTH = re.compile(rf"(?:every|each)\s+(?:{'|'.join(ORDINALS)}|other|\d+(?:st|nd|rd|th))\s", re.IGNORECASE)


def split_regions(words: str) -> list[str]:
    """The regions of a list such as "the sky and the water", "dog, cat and bird" or "first and third star"."""
    words = words.strip(" ,")
    if _ONE_AREA.search(words):
        return [words]
    if match := _RANKS.fullmatch(words):
        ranks = re.split(_WORD_JOINT, match["ranks"], flags=re.IGNORECASE)
        return [f"{rank} {singular_noun(match['noun'])}" for rank in ranks]
    return [region for part in _JOINT.split(words) if part.strip() for region in _split_words(part)]


def _split_words(words: str) -> list[str]:
    match = _WORDS.fullmatch(words)
    parts = re.split(_WORD_JOINT, match["words"], flags=re.IGNORECASE) if match else []
    if not match or any(part.lower() in DESCRIBING for part in parts):
        return [words]
    shared = f"{match['det']} " if (match["det"] or "").lower() in ("all", "every", "each") else ""
    return [shared + part for part in parts]


@lru_cache(maxsize=4096)  # the same words come up again and again while a sentence is divided
def is_region(words: str) -> bool:
    """Whether words say what to look for; not so "first", "one on the left", "dog not", "0 stars"."""
    request = region_request(words, "") if len(words) <= LONGEST_PHRASE else None
    if request is None or _EVERY_NTH.match(words.strip()):
        return False
    selector = request.selector
    if selector.kind != "thing":
        return True
    if (
        selector.rank < 1
        or selector.count == 0
        or _NEGATED.search(request.phrase)
        or re.search(r"[][(){}<>=:/]", words)
    ):
        return False
    if _NO_NOUN.fullmatch(request.query) or request.query.lower() in DESCRIBING - _ALSO_NOUNS:
        return False
    return not (selector.order != "score" and _PART_OF.match(request.query))
