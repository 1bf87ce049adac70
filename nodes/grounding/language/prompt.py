"""From a sentence to an instruction: which thing shall get which style. Deterministic forms, no language model.

"make the red star pixel art", "apply halftone style to the leftmost cup; turn the two dogs into a watercolor",
"the dog in watercolor, the sky like pixel art, keep the tree as it is".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from ...engine.errors import RegionStyleError, shortened, wrong_input
from ...engine.language.instruction import EditRequest, Instruction
from ...engine.language.region_words import region_request
from .clause_forms import VERBS, Pair, split_verb
from .clauses import joints_of, read_clauses
from .region_lists import split_regions
from .style_names import all_names, clean_style, key, normal_style
from .written_words import LONGEST_PHRASE, LONGEST_SENTENCE, check_parts, check_words

FORMS_SHOWN = (
    '"make the THING STYLE", "turn the THING into STYLE", "apply STYLE to the THING", "the THING in STYLE style"'
)
_POLITE = re.compile(
    rf"^(?:(?:please|hey|ok|now|first(?=\s*,|\s+(?:{'|'.join(VERBS)})\b)|(?:can|could|would|will)\s+you|"
    r"i\s+want(?:\s+(?:you\s+)?to)?|i(?:'d|\s+would)\s+like\s+(?:you\s+)?to|let's|then|and|also)\b[\s,]*)+",
    re.IGNORECASE,
)
_THANKS = re.compile(r"[\s,]+(?:please|thanks|thank\s+you)$", re.IGNORECASE)
_BULLET = re.compile(r"^(?:[-*\u2022]|\d+[.)])\s+")
_QUOTED = re.compile(r"(?<![\w])([\"'])(.+?)\1(?![\w])", re.DOTALL)


def read_sentence(sentence: str, styles: Sequence[str] | None = None, style: str | None = None) -> Instruction:
    """What a sentence asks for, without complaint about what it does not understand (`Instruction.unread`).

    styles: the names that are known (None: any words are a style); style: given apart, it counts for every region,
    and the sentence may then be only the things. RegionStyleError for a sentence that is too long (the time to read one
    grows linearly with its length) or holds signs of another program, such as prompt weights.
    """
    check_words(sentence, "sentence", LONGEST_SENTENCE)
    text, quotes = _atoms(_normal(sentence))
    names, pairs, kept, unread = all_names(styles), [], [], []
    for segment in _checked_segments(text):
        clauses = read_clauses(segment, names, style is not None)
        if clauses is None:
            unread.append(_restored(segment, quotes))
            continue
        pairs += [clause for clause in clauses if isinstance(clause, Pair)]
        kept += [clause for clause in clauses if isinstance(clause, str)]
    requests = [request for pair in pairs for request in _requests(pair, quotes, styles, style)]
    stays = [request for words in kept for request in _requests(Pair(words, ""), quotes, None, "")]
    return Instruction(_last_wins(_with_it(requests)), tuple(stays), tuple(unread))


def parse_sentence(sentence: str, styles: Sequence[str] | None = None, style: str | None = None) -> Instruction:
    """`read_sentence`, with a RegionStyleError that shows what was understood when a part was not, and one that lists
    the known styles when a style is none of them."""
    instruction = read_sentence(sentence, styles, style)
    if instruction.unread or not instruction.requests:
        missed = "; ".join(repr(part) for part in instruction.unread) or "anything to restyle"
        known = f" Known styles: {', '.join(styles)}." if styles else " Or give the style apart."
        raise RegionStyleError(
            f"sentence: got {shortened(repr(sentence))}; understood: {shortened(str(instruction))}; not understood: "
            f"{shortened(missed)}; expected one of: {FORMS_SHOWN}. Join several by commas, with quotes around unusual "
            f"names.{known}"
        )
    for request in instruction.requests:
        if styles is not None and request.style not in styles:
            accepts = f"one of: {', '.join(styles)}"
            raise wrong_input("style", f"{request.style!r} (from {sentence!r})", accepts, "Choose one of these.")
    return instruction


def parse_regions(sentence: str) -> Instruction:
    """`parse_sentence` where styles may be left out: "the red star, the two dogs" asks for things only (style "").

    Without a command and without a style that is known, all words are things, so that "man in red" stays whole.
    """
    instruction = read_sentence(sentence)
    commands = any(split_verb(segment)[0] for segment in _segments(_normal(sentence)))
    styled = any(key(request.style) in all_names(None) for request in instruction.requests)
    return parse_sentence(sentence) if commands or styled else parse_sentence(sentence, style="")


def parse_prompt(sentence: str, styles: Sequence[str] | None = None, style: str | None = None) -> EditRequest:
    """The one request of a sentence; RegionStyleError as in `parse_sentence`, and when it names several things."""
    instruction = parse_sentence(sentence, styles, style)
    if len(instruction.requests) > 1:
        raise wrong_input("sentence", f"{sentence!r} ({instruction})", "one thing", "Name one thing at a time.")
    return instruction.requests[0]


def _normal(sentence: str) -> str:
    """One spelling for quotation marks, dashes and blanks; line ends stay, since they end a clause."""
    text = unicodedata.normalize("NFKC", sentence).translate(str.maketrans("\u2018\u2019\u201c\u201d\u201e", '\'\'"""'))
    return "\n".join(_BULLET.sub("", " ".join(line.split())) for line in text.splitlines())


def _atoms(text: str) -> tuple[str, list[str]]:
    """Every quoted string as one private-use character, and the strings."""
    quotes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        quotes.append(match[2])
        return chr(0xE000 + len(quotes) - 1)

    return re.sub(r"\s[&+]\s", " and ", _QUOTED.sub(keep, text)), quotes


def _restored(text: str, quotes: Sequence[str]) -> str:
    return "".join(quotes[ord(c) - 0xE000] if 0 <= ord(c) - 0xE000 < len(quotes) else c for c in text)


def _segments(text: str) -> list[str]:
    """The parts between the marks that always end a clause."""
    parts = re.split(r"\s*(?:;|\n|[.!?](?=\s|$))\s*", text)
    return [cleaned for part in parts if (cleaned := _THANKS.sub("", _POLITE.sub("", part)).strip(" ,"))]


def _checked_segments(text: str) -> list[str]:
    """`_segments`; RegionStyleError when they have too many parts between commas and "and"."""
    segments = _segments(text)
    check_parts(sum(1 + len(joints_of(segment)) for segment in segments), "sentence")
    return segments


def _requests(pair: Pair, quotes: Sequence[str], styles: Sequence[str] | None, style: str | None) -> list[EditRequest]:
    """One request for every region of a list "the sky and the water"."""
    words = clean_style(_restored(pair.style if style is None else style, quotes))
    name = words if styles is None else normal_style(words, styles)
    requests = [_request(_restored(part, quotes), name) for part in split_regions(pair.region)]
    return [request for request in requests if request is not None]


def _request(words: str, style: str) -> EditRequest | None:
    if len(words) > LONGEST_PHRASE:
        got, accepts = f"{len(words)} characters for one thing ({words!r})", f"at most {LONGEST_PHRASE}"
        raise wrong_input("sentence", got, accepts, "Name the thing in fewer words.")
    if words.strip().lower() in ("it", "this", "that", "all"):
        return replace(region_request("everything", style), phrase=words.strip().lower())  # type: ignore[type-var]
    return region_request(words, style)


def _with_it(requests: Sequence[EditRequest]) -> list[EditRequest]:
    """ "it" is the thing named before, or the whole picture where none was."""
    result: list[EditRequest] = []
    for request in requests:
        again = request.phrase in ("it", "this", "that") and result
        result.append(replace(result[-1], style=request.style) if again else request)
    return result


def _last_wins(requests: Sequence[EditRequest]) -> tuple[EditRequest, ...]:
    """A region named twice gets the style it was given last."""
    return tuple({request.phrase.lower(): request for request in requests}.values())
