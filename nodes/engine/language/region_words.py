"""The words for a region: what to look for, and which of the found ones is meant.

"the second cat from the left" -> look for "cat", sort by the left, take number 2.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .instruction import EditRequest, Selector
from .nouns import DETERMINERS, STUFF, head, singular_noun

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: number for number, word in enumerate(_NUMBERS.split(), 1)}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
ORDINALS = {word: number for number, word in enumerate(_ORDINALS.split(), 1)}
_NAMED = {"all": None, "every": None, "each": None, "both": 2}
_SUPERLATIVES = {
    "left": "left|leftmost|left-most|far left|furthest left",
    "right": "right|rightmost|right-most|far right|furthest right",
    "top": "top|topmost|upper|uppermost|highest",
    "bottom": "bottom|bottommost|lower|lowest|lowermost",
    "center": "middle|central|center|centre|centermost",
    "largest": "largest|biggest|closest|nearest|foremost|frontmost",
    "smallest": "smallest|tiniest|littlest|farthest|furthest|most distant",
}
_ORDER_OF = {word: order for order, words in _SUPERLATIVES.items() for word in words.split("|")}
_SUPER = "|".join(sorted(_ORDER_OF, key=len, reverse=True))
_ORD = "|".join([*ORDINALS, r"\d+(?:st|nd|rd|th)", "last"])
_NUM = "|".join([*NUMBERS, r"\d+"])
_SIDE = r"left|right|top|bottom"
_CORNER = r"(?:top|upper|bottom|lower)[\s-]+(?:left|right)"
_PARTS = frozenset({*_SIDE.split("|"), "upper", "lower", "middle", "central", "center", "centre"})  # "top of the table"
_FIRSTS = "|".join(sorted((word for word in _ORDER_OF if word not in _PARTS), key=len, reverse=True))
RANK_WORDS = rf"{_ORD}|{_FIRSTS}|(?:{_ORD})[\s-]+(?:{_FIRSTS})"  # which of several
_THE = r"(?:the\s+)?"
_FILLER = r"(?:\s+(?:that|which|who)\s+(?:is|are)|\s+(?:located|placed|positioned|standing|sitting|lying))?"
_PICTURE = r"(?:image|photo|photograph|picture|scene)"
_RELATIONS = (
    ("left of", rf"(?:(?:on|to|at)\s+)?{_THE}left(?:\s+(?:hand\s+)?side)?\s+of"),
    ("right of", rf"(?:(?:on|to|at)\s+)?{_THE}right(?:\s+(?:hand\s+)?side)?\s+of"),
    ("in front of", r"in\s+front\s+of"),
    ("on", r"on\s+top\s+of|inside(?:\s+of)?|on(?=\s+(?:the|an?|his|her|my|its)\s)"),
    ("near", r"next\s+to|(?:close|closest|nearest|adjacent)\s+to|beside|near(?:\s+to)?|by(?=\s+(?:the|an?)\s)"),
    ("above", r"above|over"),
    ("below", r"below|underneath|under|beneath"),
    ("behind", r"behind"),
)
_WHOLE = rf"(?:(?:whole|entire|full|complete)\s+)?{_PICTURE}|everything|all\s+of\s+it|it\s+all|whole\s+thing"
_REST = (
    r"background|backdrop|surroundings?|surrounding\s+areas?|environment|everything\s+else|all\s+else|"
    r"(?:all\s+)?(?:the\s+)?(?:rest|remainder)(?:\s+of\s+it)?|other\s+(?:areas?|parts?|regions?|things?)|"
    r"remaining\s+(?:areas?|parts?)"
)
_BUT = r"but|except(?:\s+for)?|apart\s+from|besides|outside(?:\s+of)?|around|other\s+than"
_EXCEPT = rf"(?:(?:everything|all)\s+(?:{_BUT})|(?:{_REST})\s+(?:but|except(?:\s+for)?))"
_LOOKS = r"style|look|appearance|colou?r"


def _match(pattern: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(pattern, text, re.IGNORECASE)


def without_determiners(words: str) -> tuple[str, int | None]:
    """The words without leading determiners and "of", and how many those ask for (1, 2 for both, None for all)."""
    rest, count = words.split(), 1
    asked: int | None = count
    while len(rest) > 1 and (rest[0].lower() in DETERMINERS or (rest[0].lower() == "of" and asked != 1)):
        asked = _NAMED.get(rest[0].lower(), asked)
        rest = rest[1:]
    return " ".join(rest), asked


def clean_region(words: str) -> str:
    """Without "style of" before, "in the picture" and the like at the end, and punctuation."""
    words = words.strip(" ,.!?:")
    words = re.sub(rf"^{_THE}(?:{_LOOKS})\s+of\s+|(?<=\S)'s\s+(?:{_LOOKS})$", "", words, flags=re.IGNORECASE)
    words = re.sub(r"(?:\s+(?:as\s+well|too|only|please))+$", "", words, flags=re.IGNORECASE)
    pattern = rf"(?<=\S)\s+(?:in|of|from|on)\s+(?:the|this|that|my|your)\s+{_PICTURE}$"
    return re.sub(pattern, "", words, flags=re.IGNORECASE).strip(" ,")


def bare_words(words: str) -> str:
    """A region's words in lower case, without articles and "in the picture": what two names are compared by."""
    return without_determiners(clean_region(words))[0].lower()


def region_request(words: str, style: str) -> EditRequest | None:
    """The request for a region's words; None when nothing is left of them."""
    words = clean_region(words)
    phrase, count = without_determiners(words)
    if not phrase or phrase.lower() in DETERMINERS:
        return None
    for whole in (phrase, words):  # "all but the dog": not all of them
        if (kind := _special(whole)) is not None:
            return EditRequest(whole, style, whole, kind)
    noun, selector = _spatial(phrase, Selector(count=count))
    noun, selector = _counted(noun, selector)
    return EditRequest(phrase, style, noun, selector)


def _special(phrase: str) -> Selector | None:
    if _match(_WHOLE, phrase):
        return Selector(kind="whole", count=None)
    if _match(_REST, phrase):
        return Selector(kind="rest", count=None)
    match = _match(rf"{_EXCEPT}\s+(?P<anchor>.+)", phrase)
    return Selector(kind="rest", count=None, anchor=without_determiners(match["anchor"])[0]) if match else None


def _rank(word: str) -> int:
    return ORDINALS.get(word.lower()) or int(word[:-2])


def _number(word: str) -> int:
    return NUMBERS.get(word.lower()) or int(word)


def _spatial(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """The phrase without the words that say where, and the rule with them."""
    for step in (_of_many, _nth_from, _at_side, _in_depth, _related, _superlative, _nth):
        phrase, selector = step(phrase, selector)
    return phrase, selector


def _of_many(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "largest of the dogs" -> "largest dog"."""
    match = _match(rf"(?P<rank>{RANK_WORDS})\s+(?:one\s+)?of\s+(?:the|these|those|my)\s+(?P<noun>.+)", phrase)
    return (f"{match['rank']} {singular_noun(match['noun'])}" if match else phrase), selector


_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def _ordered(selector: Selector, order: str, ordinal: str | None, number: str | None = None) -> Selector:
    """Sorted by an order; "last" counts from its other end."""
    count = _number(number) if number else selector.count
    if ordinal and ordinal.lower() == "last":
        return replace(selector, order=_OPPOSITE[order], rank=1, count=count)
    return replace(selector, order=order, rank=_rank(ordinal) if ordinal else 1, count=count)


def _nth_from(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "second cat from the left", "cat second from the left", "two cats from the left"."""
    tail = rf"from\s+{_THE}(?P<side>{_SIDE})"
    for form in (
        rf"(?P<ord>{_ORD})\s+(?P<noun>.+?)\s+{tail}",
        rf"(?P<noun>.+?),?{_FILLER}\s+{_THE}(?P<ord>{_ORD})\s+{tail}",
        rf"(?P<ord>{_ORD})[\s-]+from[\s-]+{_THE}(?P<side>{_SIDE})\s+(?P<noun>.+)",
        rf"(?P<num>{_NUM})\s+(?P<noun>.+?)\s+{tail}",
    ):
        if match := _match(form, phrase):
            parts = match.groupdict()
            return match["noun"], _ordered(selector, match["side"].lower(), parts.get("ord"), parts.get("num"))
    return phrase, selector


def _at_side(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "cat on the left", "tree at the far right side", "star in the top left corner", "cup in the middle"."""
    sides = r"(?:(?:top|upper|bottom|lower)[\s-]+)?(?:left|right)|top|bottom|middle|center|centre"
    tail = rf"(?:\s+(?:hand\s+)?(?:side|half|part|corner|edge))?(?:\s+of\s+{_THE}{_PICTURE})?"
    match = _match(rf"(?P<noun>.+?){_FILLER}\s+(?:on|at|to|in|near)\s+{_THE}(?:far\s+)?(?P<at>{sides}){tail}", phrase)
    if not match:
        return phrase, selector
    words = [_ORDER_OF[word] for word in re.split(r"[\s-]+", match["at"].lower())]
    return match["noun"], replace(selector, order=" ".join(words), half=words != ["center"])


def _in_depth(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "tree in the background" (smaller is farther), "man in the foreground"."""
    match = _match(rf"(?P<noun>.+?){_FILLER}\s+(?:in|at)\s+the\s+(?P<at>foreground|front|background|back)", phrase)
    if not match:
        return phrase, selector
    return match["noun"], replace(selector, order="largest" if match["at"].lower().startswith("f") else "smallest")


def _related(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "chair on the left of the sofa", "cat under the table"."""
    for relation, words in _RELATIONS:
        if match := _match(rf"(?P<noun>.+?){_FILLER}\s+(?:{words})\s+(?P<anchor>.+)", phrase):
            anchor = without_determiners(match["anchor"])[0]
            return match["noun"], replace(selector, relation=relation, anchor=anchor)
    return phrase, selector


def _superlative(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "leftmost cat", "top left cat", "second largest dog", "two leftmost cats", "leftmost two cats"."""
    which = rf"(?:(?P<ord>{_ORD})[\s-]+)?(?:(?P<num>{_NUM})\s+)?(?P<word>{_CORNER}|{_SUPER})(?:\s+(?P<more>{_NUM}))?"
    form = rf"{which}\s+(?P<noun>(?!of\b).+)"
    match = _match(form, phrase)
    if not match or (match["ord"] or "").lower() == "last" or selector.order != "score":
        return phrase, selector
    named = match["word"].lower()
    order = _ORDER_OF.get(named) or " ".join(_ORDER_OF[side] for side in re.split(r"[\s-]+", named))
    return match["noun"], _ordered(selector, order, match["ord"], match["num"] or match["more"])


def _nth(phrase: str, selector: Selector) -> tuple[str, Selector]:
    """ "second cat", "last tree": counted from the left, as one reads."""
    match = _match(rf"(?P<ord>{_ORD})\s+(?:(?P<num>{_NUM})\s+)?(?P<noun>.+)", phrase)
    order = "left" if selector.order == "score" else selector.order  # "third cat on the right" counts from there
    if not match or selector.rank != 1 or (match["ord"].lower() == "last" and order not in _OPPOSITE):
        return phrase, selector
    return match["noun"], _ordered(selector, order, match["ord"], match["num"])


def _counted(noun: str, selector: Selector) -> tuple[str, Selector]:
    """A number before the noun, a plural, or a mass such as the sky; the noun to look for is singular."""
    match = _match(rf"(?P<num>{_NUM})\s+(?:of\s+(?:the|these|those|my)\s+)?(?P<noun>.+)", noun)
    if match:
        noun, selector = match["noun"], replace(selector, count=_number(match["num"]))
    single, words = singular_noun(noun), noun.split()
    if single != " ".join(words) and selector.count == 1 and selector.rank == 1 and not match:
        selector = replace(selector, count=None)
    if words[head(words)].lower() in STUFF and selector == Selector():
        selector = replace(selector, count=None)
    return single, selector
