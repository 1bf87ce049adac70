"""One clause: which words are the region and which are the style.

Seven forms, numbered P1 to P7: "apply S to R", "make R look like S", "give R a S look",
"VERB R in S", "VERB R S", "R: S", "R in S".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from ...engine.language.nouns import DETERMINERS
from .region_lists import DESCRIBING, is_region, split_regions
from .style_names import STYLE_ENDINGS, clean_style, ends_as_style, key, style_at_end
from .written_words import LONGEST_PHRASE

APPLYING = ("apply", "use", "put", "add")
VERBS = (
    *APPLYING, "give", "make", "have", "let", "turn", "paint", "repaint", "render", "draw", "redraw", "convert",
    "transform", "change", "restyle", "stylize", "stylise", "style", "recolor", "recolour", "show",
)  # fmt: skip
MOST_LINKS = 8  # prepositions of one clause that are tried as the one between region and style
_VERB = re.compile(rf"(?:(?:also|please|now|just|then)\s+)*({'|'.join(VERBS)})\b\s*", re.IGNORECASE)
_DET = rf"(?:{'|'.join(sorted(DETERMINERS))})"
_PLACE = re.compile(
    r"(?:(?:the|this|that|my)\s+)?(?:\w+\s+)?(?:image|photo|photograph|picture|scene|background|foreground|middle|"
    r"center|centre|left|right|front|back|top|bottom|distance)(?:\s+(?:side|half|corner|edge|of)\b.*)?",
    re.IGNORECASE,
)
_HIDDEN_COMMAND = re.compile(
    rf"(?:,|\band\b|\bthen\b)\s+(?:(?:also|please|now|just|then)\s+)*(?:{'|'.join(VERBS)})\s", re.I
)
_BEFORE_COLORS = frozenset(("in", "of", "with", "like", "as", "and", "or"))  # "the man in gold, the woman"
_NEXT_COMMAND = re.compile(rf"(?:,|\band\b|\bthen\b|;)\s+(?:{_DET}|{'|'.join(VERBS)})\s", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """The region's words and the style's words of one clause, as they were written."""

    region: str
    style: str


def split_verb(text: str) -> tuple[str, str]:
    """The command verb a clause begins with, in lower case, and the rest; "" when there is none."""
    match = verb_at(text, 0)
    return (match[1].lower(), text[match.end() :]) if match else ("", text)


def verb_at(text: str, start: int) -> re.Match[str] | None:
    """The command verb (group 1) and the blanks behind it at a place of a text; None when there is none."""
    return _VERB.match(text, start)


def read_clause(verb: str, rest: str, names: frozenset[str], strict: bool = False) -> Pair | None:
    """Region and style of one clause; None when no form fits.

    names: styles known by `style_names.key`; strict: no guess that an unknown single word is a style.
    """
    for form in _forms(verb):
        for pair in form(rest.strip(" ,.!?"), verb, names, strict):
            if _whole(pair, names):
                return pair
    return None


def _forms(verb: str) -> tuple:
    if verb in APPLYING:
        return (_applied,)
    if verb == "give":
        return (_given, _applied)
    if verb in ("have", "let"):
        return (_looking,)
    return (_looking, _linked, _joined) if verb else (_assigned, _wished, _linked)


def _whole(pair: Pair, names: frozenset[str]) -> bool:
    """Neither side empty, all regions can be read, and neither side has swallowed a further command."""
    alone = pair.region.lower().split() in (["it"], ["this"], ["all"])
    if len(pair.style) > LONGEST_PHRASE or not clean_style(pair.style) or _NEXT_COMMAND.search(f"{pair.style} "):
        return False
    return alone or (_is_list(pair.region) and not _holds_style(pair.region, names))


@lru_cache(maxsize=4096)  # the same words come up again and again while a sentence is divided
def _is_list(words: str) -> bool:
    """Whether words are one or several regions and nothing else."""
    parts = split_regions(words)
    return bool(parts) and all(is_region(part) for part in parts) and not _HIDDEN_COMMAND.search(words)


def _holds_style(words: str, names: frozenset[str]) -> bool:
    """Whether a known style stands behind a noun and before the next one: "dog neon the cat", "dog neon, cat"."""
    tokens = words.lower().split()
    if tokens[-2:-1] == ["as"] and key(tokens[-1]) in names:  # "as neon as possible"
        return True
    for place in range(1, len(tokens) - 1):
        follows = tokens[place].endswith(",") or tokens[place + 1] in DETERMINERS
        before = tokens[place - 1]
        after_noun = before not in (DETERMINERS | DESCRIBING | _BEFORE_COLORS) and not before.endswith(
            ("ing", "ed", ",")
        )
        if follows and after_noun and key(tokens[place].rstrip(",")) in names:
            return True
    return False


def _applied(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P1, "apply S to R": cut at the first preposition followed by a determiner, else at the last one."""
    cuts = list(re.finditer(r"(?<!next)(?<!close)(?<!adjacent)\s+(?:to|onto|on|over|for)\s+", rest, re.IGNORECASE))
    good = [cut for cut in cuts if re.match(rf"{_DET}\s", rest[cut.end() :], re.IGNORECASE)]
    for cut in good[:1] or cuts[-1:]:
        style = rest[: cut.start()]
        two = re.search(r"\sand\s", style, re.IGNORECASE) and key(clean_style(style)) not in names
        if not (strict and two):  # first "the cat and dog | and mosaic to", then "cubism and neon"
            yield Pair(rest[cut.end() :], style)


def _looking(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P2, "make R look like S"."""
    match = re.fullmatch(r"(.+?)\s+(?:look|appear|seem)\s+(?:(?:like|as|in)\s+)?(.+)", rest, re.IGNORECASE)
    if match:
        yield Pair(match[1], match[2])


def _wished(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P2 said as a wish: "R should look like S", "R to be S", "R becomes S"."""
    wish = r"(?:should|shall|must|has\s+to|needs?\s+to|to)\s+(?:be|become|look|appear)|becomes"
    match = re.fullmatch(rf"(.+?)\s+(?:{wish})\s+(?:(?:like|as|in|into)\s+)?(.+)", rest, re.IGNORECASE)
    if match:
        yield Pair(match[1], match[2])


def _given(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P3, "give R a S look": cut at an article before a known style, else at the last article."""
    ending = r"\s+(?:style|look|texture|feel|effect|finish|appearance|aesthetic|theme)"
    match = re.fullmatch(rf"(.+){ending}", rest, re.IGNORECASE)
    cuts = list(re.finditer(r"\s+an?\s+", match[1], re.IGNORECASE)) if match else []
    pairs = [Pair(rest[: cut.start()], match[1][cut.end() :]) for cut in cuts if match]
    yield from [pair for pair in pairs if key(pair.style) in names] or pairs[-1:]


def _linked(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P4, "turn R into S", and without a verb P7, "R in S": prepositions are tried from the right."""
    match = re.fullmatch(r"(.+?)\s+in\s+(?:the|a)\s+(?:style|manner|look)\s+of\s+(.+)", rest, re.IGNORECASE)
    if match:
        yield Pair(match[1], match[2])
    links = "in|into|to|as|with|like|using" if verb else "in|into|as|like"
    cuts = list(re.finditer(rf"\s+({links})\s+(?=(\S.*))", rest, re.IGNORECASE))[::-1]
    # a stable sort: "into" is the surest
    for cut in sorted(cuts, key=lambda cut: cut[1].lower() != "into")[:MOST_LINKS]:
        region, style = rest[: cut.start()], cut[2]
        if _accepts(verb, region, cut[1].lower(), style, names):
            yield Pair(re.sub(r"\s+(?:to\s+)?look$", "", region, flags=re.IGNORECASE), style)


def _accepts(verb: str, region: str, link: str, style: str, names: frozenset[str]) -> bool:
    """Whether a preposition may divide region and style."""
    words = style.split()
    if _PLACE.fullmatch(style) or words[0].lower() in ("well", "front"):
        return False
    if link == "to" and re.search(r"\b(?:next|close|adjacent|near)$", region, re.IGNORECASE):
        return False
    named = ends_as_style(style) or key(clean_style(style)) in names
    if words[0].lower() in DETERMINERS:
        known = key(clean_style(style)) in names or words[-1].lower() in STYLE_ENDINGS
        if not known and (link == "with" or _PLACE.match(style)):  # "with a balloon", "in the middle"
            return False
        return named or (link in ("into", "as") and words[0].lower() in ("a", "an"))
    # "make the man with sunglasses anime": the style stands alone at the end
    alone = verb in ("make", "") and link in ("in", "with") and not named
    return not (alone and style_at_end(words, names))


def _joined(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P5, "make R S" without a preposition: the longest known style at the end, else the word before "style"."""
    words = rest.split()
    marked = len(words) > 2 and words[-1].lower() in STYLE_ENDINGS
    words = words[:-1] if marked else words
    length = style_at_end(words, names) or (1 if marked and len(words) > 1 else 0)
    if not length and not strict:
        length = _one_word(words)
    if length:
        yield Pair(_no_article_at_end(words[:-length]), " ".join(words[-length:]))


def _one_word(words: list[str]) -> int:
    """1 when exactly one word follows determiner and noun, which then is the style."""
    place = 0
    while place < len(words) and words[place].lower() in DETERMINERS:
        place += 1
    fits = place and len(words) == place + 2 and words[place].lower() not in DESCRIBING
    return 1 if fits else 0


def _no_article_at_end(words: list[str]) -> str:
    while words and words[-1].lower() in ("a", "an", "the"):
        words = words[:-1]
    return " ".join(words)


def _assigned(rest: str, verb: str, names: frozenset[str], strict: bool) -> Iterator[Pair]:
    """P6, "R: S", "R = S", "R -> S"."""
    match = re.fullmatch(r"(.+?)\s*(?:->|=>|\u2192|:|=)\s*(.+)", rest)
    if match:
        yield Pair(match[1], match[2])


def read_bare(rest: str, names: frozenset[str]) -> Pair | None:
    """P7 as it may follow another clause: "R S" with a known style, no verb and no preposition."""
    return next((pair for pair in _joined(rest.strip(" ,.!?"), "", names, True) if _whole(pair, names)), None)
