"""A part of a sentence between full stops divided into clauses, each a region with its style or a thing to keep.

Where a comma or "and" divides clauses and where it joins things is found by trying: the shortest clause first that can
be read, then the rest likewise. The work grows linearly with the length and is bounded: no clause reaches across the
command of the next one, none but the first holds more than `MOST_JOINTS` joints, a place from which the rest cannot be
read is not tried again, and after `MOST_TRIES` clauses the text counts as not understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ...engine.language.nouns import DETERMINERS
from ...engine.language.region_words import clean_region
from .clause_forms import APPLYING, Pair, read_bare, read_clause, split_verb, verb_at
from .region_lists import is_region, split_regions
from .style_names import clean_style, ends_as_style, key

MOST_JOINTS = 16  # commas and "and" within one clause
MOST_TRIES = 1600  # a sentence that is understood needs about one for each of its clauses
KEEP = "keep"  # stands for all of the following where a clause has no verb of its own and takes over the last one
_KEEP = r"keep|keeping|leave|leaving|preserve|preserving|without\s+changing|(?:do\s+not|don't)\s+(?:change|touch|alter)"
_KEEP_CLAUSE = re.compile(rf"(?:{_KEEP})\b\s*", re.IGNORECASE)
_KEPT_ENDING = re.compile(
    r"\s+(?:unchanged|untouched|intact|alone|original|the\s+same|as\s+(?:it\s+is|they\s+are|is|before)|unaltered)$",
    re.IGNORECASE,
)
_STAYS = re.compile(
    rf"(?P<what>(?:(?!\b(?:{_KEEP})\b)[^,])+?)\s+(?:(?:(?:should|shall|must|can|may)\s+)?(?:stays?|remains?)(?:\s.*)?|"
    r"unchanged|untouched|intact|unaltered|as\s+(?:it\s+is|they\s+are|before))",
    re.IGNORECASE,
)
_NOTHING_TO_KEEP = re.compile(
    r"(?:(?:the|all|any|other|every)\s+)*(?:else|anything(?:\s+else)?|everything(?:\s+else)?|rest.*|other.*|areas?|parts?|"
    r"remainder.*|it|them)?",
    re.IGNORECASE,
)
# Where one clause may end and the next begin; a division is kept only if both sides can be read.
_JOINT = re.compile(
    rf"\s*,\s*(?:(?:and|but|while)\s+)?(?:then\s+)?|\s+(?:and|but|while)\s+(?:then\s+)?|\s+then\s+|\s+(?={_KEEP}\b)",
    re.IGNORECASE,
)
_CLEAR = re.compile(r"(?:,|\band|\bthen)\s+$", re.IGNORECASE)
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Joint:
    """A comma, "and" or the like from `start` to `end` of a text.

    opens: a command, a determiner or a thing to keep follows; command: a command follows, so a new clause begins here.
    """

    start: int
    end: int
    opens: bool
    command: bool


def joints_of(text: str) -> list[Joint]:
    """Every place of a text where one clause may end and the next begin."""
    return [_joint(text, match) for match in _JOINT.finditer(text)]


def _joint(text: str, match: re.Match[str]) -> Joint:
    verb, word = verb_at(text, match.end()), _WORD.match(text, match.end())
    determiner = word is not None and word[0].lower() in DETERMINERS
    opens = determiner or verb is not None or _KEEP_CLAUSE.match(text, match.end()) is not None
    command = verb is not None and verb[0][-1:].isspace() and _CLEAR.search(match[0]) is not None
    return Joint(match.start(), match.end(), opens, command)


def read_clauses(text: str, names: frozenset[str], style_apart: bool) -> list[Pair | str] | None:
    """Pairs and the things to keep, in order; None when no way of dividing the text lets every clause be read.

    names: styles known by `style_names.key`; style_apart: the style is given elsewhere, so the text may be only things.
    """
    for strict in (True, False):
        clauses = _Division(text, names, strict).read()
        if clauses is not None and not (style_apart and _guessed(text, clauses, names)):
            return clauses
    return _only_things(text) if style_apart else None


def _guessed(text: str, clauses: Sequence[Pair | str], names: frozenset[str]) -> bool:
    """Whether words without a command or a sign were divided at a style that is none: "man in red"."""
    sure = split_verb(text)[0] or re.search(r"[:=>\u2192]", text)
    styles = [clause.style for clause in clauses if isinstance(clause, Pair)]
    return not sure and not all(ends_as_style(style) or key(clean_style(style)) in names for style in styles)


def _only_things(text: str) -> list[Pair | str] | None:
    """The things of a list without styles."""
    parts = re.split(r"\s*,\s*(?:and\s+)?", split_verb(text)[1])
    things = [thing for part in parts for thing in split_regions(part)]
    return [Pair(thing, "") for thing in things] if all(is_region(thing) for thing in things) else None


class _Division:
    """One text divided into clauses. `dead`: places and verbs in force from which the rest could not be read."""

    def __init__(self, text: str, names: frozenset[str], strict: bool) -> None:
        self.text, self.names, self.strict = text, names, strict
        self.joints = joints_of(text)
        self.dead: set[tuple[int, str]] = set()
        self.tries = 0

    def read(self, first: int = 0, verb: str = "") -> list[Pair | str] | None:
        """The clauses from behind joint number `first` - 1 on; verb: the last command, which counts on."""
        if (first, verb) in self.dead:
            return None
        start = self.joints[first - 1].end if first else 0
        for end, following in self._ends(first, start, verb):
            part = self.text[start:end].strip(" ,")
            own, rest = (KEEP, part) if _KEEP_CLAUSE.match(part) else split_verb(part)
            clause = self._clause(own or verb, rest, first > 0 and not own)
            if clause is None:
                continue
            others = self.read(following, own or verb) if following is not None else []
            if others is not None:
                return [clause, *others]
        self.dead.add((first, verb))
        return None

    def _ends(self, first: int, start: int, verb: str) -> Iterator[tuple[int, int | None]]:
        """Where the clause that begins at `start` may end, and the number of the joint behind which the next begins.

        The next has to begin with a command or a determiner, except in lists like "a: x, b: y" and "apply x to a, y to
        b", where the style or the region itself comes first.
        """
        command = verb_at(self.text, start)
        anywhere = (command[1].lower() if command else verb) in ("", *APPLYING)
        within = self.joints[first : first + MOST_JOINTS]
        for number, joint in enumerate(within, first + 1):
            if joint.start > start and (anywhere or joint.opens):
                yield joint.start, number
            if joint.start > start and joint.command:
                return
        if first == 0 or first + MOST_JOINTS >= len(self.joints):
            yield len(self.text), None

    def _clause(self, verb: str, rest: str, inherited: bool) -> Pair | str | None:
        """A pair, the thing to keep (empty: everything else), or None."""
        self.tries += 1
        if self.tries > MOST_TRIES:
            return None
        stays = _STAYS.fullmatch(rest)
        if verb == KEEP or stays:
            return _kept(stays["what"] if stays else _KEPT_ENDING.sub("", f" {_KEEP_CLAUSE.sub('', rest)}"))
        pair = read_clause(verb, rest, self.names, self.strict)
        if pair is None and inherited:
            return read_clause("", rest, self.names, self.strict) or read_bare(rest, self.names)
        return pair


def _kept(words: str) -> str | None:
    """The thing to keep, "" for everything else, None when the words are no thing."""
    words = clean_region(words)
    if _NOTHING_TO_KEEP.fullmatch(words):
        return ""
    return words if all(is_region(part) for part in split_regions(words)) else None
