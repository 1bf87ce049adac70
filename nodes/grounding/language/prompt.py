"""From a sentence to requests: which thing shall get which style. Deterministic forms, no language model.

"make the red star pixel art", "apply halftone style to the leftmost cup; turn the two dogs into a watercolor",
"the dog in watercolor, the sky like pixel art, keep the tree as it is".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...engine.errors import RegionStyleError
from .clause_forms import APPLYING, VERBS, Pair, read_bare, read_clause, split_verb
from .instruction import EditRequest, Instruction
from .nouns import DETERMINERS
from .region_lists import is_region, split_regions
from .region_words import clean_region, region_request
from .style_names import all_names, clean_style, ends_as_style, key, normal_style

FORMS_SHOWN = (
    '"make the THING STYLE", "turn the THING into STYLE", "apply STYLE to the THING", "the THING in STYLE style"'
)
_KEEP = r"keep|keeping|leave|leaving|preserve|preserving|without\s+changing|(?:do\s+not|don't)\s+(?:change|touch|alter)"
KEEP = "keep"  # what stands for all of these where a verb is inherited
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
_POLITE = re.compile(
    rf"^(?:(?:please|hey|ok|now|first(?=\s*,|\s+(?:{'|'.join(VERBS)})\b)|(?:can|could|would|will)\s+you|"
    r"i\s+want(?:\s+(?:you\s+)?to)?|i(?:'d|\s+would)\s+like\s+(?:you\s+)?to|let's|then|and|also)\b[\s,]*)+",
    re.IGNORECASE,
)
_THANKS = re.compile(r"[\s,]+(?:please|thanks|thank\s+you)$", re.IGNORECASE)
# Where one clause may end and the next begin; a split is kept only if both sides can be read.
_JOINT = re.compile(
    rf"\s*,\s*(?:(?:and|but|while)\s+)?(?:then\s+)?|\s+(?:and|but|while)\s+(?:then\s+)?|\s+then\s+|\s+(?={_KEEP}\b)",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*\u2022]|\d+[.)])\s+")
_QUOTED = re.compile(r"(?<![\w])([\"'])(.+?)\1(?![\w])", re.DOTALL)


def read_sentence(prompt: str, styles: Sequence[str] | None = None, style: str | None = None) -> Instruction:
    """What a sentence asks for, without complaint about what it does not understand (`Instruction.unread`).

    styles: the names that are known (None: any words are a style); style: given apart, it counts for every region,
    and the sentence may then be only the things.
    """
    text, quotes = _atoms(_normal(prompt))
    names, pairs, kept, unread = all_names(styles), [], [], []
    for segment in _segments(text):
        found = _read_segment(segment, names, style is not None)
        if found is None:
            unread.append(_restored(segment, quotes))
            continue
        pairs += [pair for pair in found if isinstance(pair, Pair)]
        kept += [words for words in found if isinstance(words, str)]
    requests = [one for pair in pairs for one in _requests(pair, quotes, styles, style)]
    stays = [one for words in kept for one in _requests(Pair(words, ""), quotes, None, "")]
    return Instruction(_last_wins(_with_it(requests)), tuple(stays), tuple(unread))


def parse_sentence(prompt: str, styles: Sequence[str] | None = None, style: str | None = None) -> Instruction:
    """`read_sentence`, with a RegionStyleError that shows what was understood when a part was not, and one that lists
    the known styles when a style is none of them."""
    sentence = read_sentence(prompt, styles, style)
    if sentence.unread or not sentence.requests:
        missed = "; ".join(repr(part) for part in sentence.unread) or "anything to restyle"
        raise RegionStyleError(
            f"prompt: got {prompt!r}; understood: {sentence}; not understood: {missed}; expected one of: "
            f"{FORMS_SHOWN}, several joined by commas, with quotes around unusual names."
            + (f" Known styles: {', '.join(styles)}." if styles else " Or give the style apart.")
        )
    for request in sentence.requests:
        if styles is not None and request.style not in styles:
            raise RegionStyleError(
                f"style: got {request.style!r} (from {prompt!r}), expected one of: {', '.join(styles)}. "
                "Choose one of these."
            )
    return sentence


def parse_regions(prompt: str) -> Instruction:
    """`parse_sentence` where styles may be left out: "the red star, the two dogs" asks for things only (style "").

    Without a command and without a style that is known, all words are things, so that "man in red" stays whole.
    """
    read = read_sentence(prompt)
    commands = any(split_verb(segment)[0] for segment in _segments(_normal(prompt)))
    styled = any(key(request.style) in all_names(None) for request in read.requests)
    return parse_sentence(prompt) if commands or styled else parse_sentence(prompt, style="")


def parse_prompt(prompt: str, styles: Sequence[str] | None = None, style: str | None = None) -> EditRequest:
    """The one request of a sentence; RegionStyleError as in `parse_sentence`, and when it names several things."""
    requests = parse_sentence(prompt, styles, style).requests
    if len(requests) > 1:
        found = "; ".join(f"{one.phrase} -> {one.style}" for one in requests)
        raise RegionStyleError(f"prompt: got {prompt!r} ({found}), expected one thing. Name one thing at a time.")
    return requests[0]


def _normal(prompt: str) -> str:
    """One spelling for quotation marks, dashes and blanks; line ends stay, since they end a clause."""
    text = unicodedata.normalize("NFKC", prompt).translate(str.maketrans("\u2018\u2019\u201c\u201d\u201e", '\'\'"""'))
    return "\n".join(_BULLET.sub("", " ".join(line.split())) for line in text.splitlines())


def _atoms(text: str) -> tuple[str, list[str]]:
    """Every quoted string as one private-use character, and the strings."""
    quotes: list[str] = []

    def keep(found: re.Match[str]) -> str:
        quotes.append(found[2])
        return chr(0xE000 + len(quotes) - 1)

    return re.sub(r"\s[&+]\s", " and ", _QUOTED.sub(keep, text)), quotes


def _restored(text: str, quotes: Sequence[str]) -> str:
    return "".join(quotes[ord(c) - 0xE000] if 0 <= ord(c) - 0xE000 < len(quotes) else c for c in text)


def _segments(text: str) -> list[str]:
    """The parts between the marks that always end a clause."""
    parts = re.split(r"\s*(?:;|\n|[.!?](?=\s|$))\s*", text)
    return [cleaned for part in parts if (cleaned := _THANKS.sub("", _POLITE.sub("", part)).strip(" ,"))]


def _read_segment(text: str, names: frozenset[str], style_apart: bool) -> list[Pair | str] | None:
    """Pairs and the things to keep, in order; None when no way of dividing the text lets every part be read."""
    joints = list(_JOINT.finditer(text))
    for strict in (True, False):
        found = _divide(text, 0, "", joints, names, strict, set())
        if found is not None and not (style_apart and _guessed(text, found, names)):
            return found
    return _only_things(text) if style_apart else None


def _guessed(text: str, found: Sequence[Pair | str], names: frozenset[str]) -> bool:
    """Whether words without a command or a sign were divided at a style that is none: "man in red"."""
    sure = split_verb(text)[0] or re.search(r"[:=>\u2192]", text)
    styles = [pair.style for pair in found if isinstance(pair, Pair)]
    return not sure and not all(ends_as_style(style) or key(clean_style(style)) in names for style in styles)


def _only_things(text: str) -> list[Pair | str] | None:
    """The things of a list without styles."""
    things = [one for part in re.split(r"\s*,\s*(?:and\s+)?", split_verb(text)[1]) for one in split_regions(part)]
    return [Pair(thing, "") for thing in things] if all(is_region(thing) for thing in things) else None


def _divide(
    text: str,
    start: int,
    verb: str,
    joints: Sequence[re.Match[str]],
    names: frozenset[str],
    strict: bool,
    dead: set[tuple[int, str]],
) -> list[Pair | str] | None:
    """Read a first part, the shortest that can be read, and then the rest in the same way.

    dead: starts from which, with the verb in force, nothing could be read; they are not tried again.
    """
    if (start, verb) in dead:
        return None
    for end, following in [*_ends(text, start, verb, joints), (len(text), None)]:
        part = text[start:end].strip(" ,")
        own, rest = (KEEP, part) if _KEEP_CLAUSE.match(part) else split_verb(part)
        first = _read_part(own or verb, rest, start > 0 and not own, names, strict)
        if first is None:
            continue
        if following is None:
            return [first]
        others = _divide(text, following, own or verb, joints, names, strict, dead)
        if others is not None:
            return [first, *others]
    dead.add((start, verb))
    return None


def _ends(text: str, start: int, verb: str, joints: Sequence[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """Where the part that begins at `start` may end, and where the next then begins.

    The next part has to begin with a command or a determiner, except in lists like "a: x, b: y" and "apply x to a,
    y to b", where the style or the region itself comes first.
    """
    verb = split_verb(text[start:])[0] or verb
    for joint in joints:
        if joint.start() <= start:
            continue
        rest = text[joint.end() :]
        word = rest.split(maxsplit=1)[0].lower() if rest else ""
        if verb in ("", *APPLYING) or word in DETERMINERS or split_verb(rest)[0] or _KEEP_CLAUSE.match(rest):
            yield joint.start(), joint.end()


def _read_part(verb: str, rest: str, inherited: bool, names: frozenset[str], strict: bool) -> Pair | str | None:
    """A pair, the thing to keep (empty: everything else), or None."""
    stays = _STAYS.fullmatch(rest)
    if verb == KEEP or stays:
        what = stays["what"] if stays else _KEPT_ENDING.sub("", f" {_KEEP_CLAUSE.sub('', rest)}")
        what = clean_region(what)
        if _NOTHING_TO_KEEP.fullmatch(what):
            return ""
        return what if all(is_region(one) for one in split_regions(what)) else None
    pair = read_clause(verb, rest, names, strict)
    if pair is None and inherited:
        return read_clause("", rest, names, strict) or read_bare(rest, names)
    return pair


def _requests(pair: Pair, quotes: Sequence[str], styles: Sequence[str] | None, style: str | None) -> list[EditRequest]:
    """One request for every region of a list "the sky and the water"."""
    words = clean_style(_restored(pair.style if style is None else style, quotes))
    name = words if styles is None else normal_style(words, styles)
    made = [_request(_restored(part, quotes), name) for part in split_regions(pair.region)]
    return [one for one in made if one is not None]


def _request(words: str, style: str) -> EditRequest | None:
    if words.strip().lower() in ("it", "this", "that", "all"):
        return replace(region_request("everything", style), phrase=words.strip().lower())  # type: ignore[type-var]
    return region_request(words, style)


def _with_it(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """ "it" is the thing named before, or the whole picture where none was."""
    found: list[EditRequest] = []
    for one in requests:
        again = one.phrase in ("it", "this", "that") and found
        found.append(replace(found[-1], style=one.style) if again else one)
    return found


def _last_wins(requests: Sequence[EditRequest]) -> tuple[EditRequest, ...]:
    """A region named twice gets the style it was given last."""
    return tuple({one.phrase.lower(): one for one in requests}.values())
