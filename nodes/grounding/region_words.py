"""The words for a region: what to look for, and which of the found ones is meant.

"the second cat from the left" -> look for "cat", sort by the left, take number 2.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .requests import Request, Rule

_DETERMINERS = "the a an this that these those my his her its our your their all every each both some any only just"
DETERMINERS = frozenset(_DETERMINERS.split())
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve"
NUMBERS = {word: number for number, word in enumerate(_NUMBERS.split(), 1)}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth"
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
_THE = r"(?:the\s+)?"
_FILLER = r"(?:\s+(?:that|which|who)\s+(?:is|are)|\s+(?:located|placed|positioned|standing|sitting|lying))?"
_PICTURE = r"(?:image|photo|photograph|picture|scene)"
_RELATIONS = (
    ("left of", rf"(?:(?:on|to|at)\s+)?{_THE}left(?:\s+(?:hand\s+)?side)?\s+of"),
    ("right of", rf"(?:(?:on|to|at)\s+)?{_THE}right(?:\s+(?:hand\s+)?side)?\s+of"),
    ("in front of", r"in\s+front\s+of"),
    ("on", r"on\s+top\s+of|inside(?:\s+of)?|on(?=\s+(?:the|an?|his|her|my|its)\s)"),
    ("near", r"next\s+to|close\s+to|adjacent\s+to|beside|near(?:\s+to)?|by(?=\s+(?:the|an?)\s)"),
    ("above", r"above|over"),
    ("below", r"below|underneath|under|beneath"),
    ("behind", r"behind"),
)
# Masses rather than things: every part of them is meant.
_STUFF_WORDS = (
    "sky water sea ocean lake river grass lawn road street floor wall ceiling snow sand ground field beach foliage "
    "fog smoke fire pavement"
)
STUFF = frozenset(_STUFF_WORDS.split())
_NO_PLURAL_WORDS = (
    "glass grass bus gas dress cross canvas class compass iris cactus octopus lens glasses sunglasses jeans trousers "
    "pants shorts clothes scissors is this his its chess mass moss boss princess mattress fortress stairs news"
)
_NO_PLURAL = frozenset(_NO_PLURAL_WORDS.split())
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "leaves": "leaf", "wolves": "wolf", "knives": "knife", "shelves": "shelf",
}  # fmt: skip
_WHOLE = rf"(?:(?:whole|entire|full|complete)\s+)?{_PICTURE}|everything|all\s+of\s+it|it\s+all|whole\s+thing"
_REST = (
    r"background|backdrop|surroundings?|surrounding\s+areas?|environment|everything\s+else|all\s+else|"
    r"(?:all\s+)?(?:the\s+)?(?:rest|remainder)(?:\s+of\s+it)?|other\s+(?:areas?|parts?|regions?|things?)|"
    r"remaining\s+(?:areas?|parts?)"
)
_EXCEPT = r"(?:everything|all)\s+(?:but|except(?:\s+for)?|apart\s+from|besides|outside(?:\s+of)?|around|other\s+than)"


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
    """Without "in the picture" and the like at the end, and without punctuation."""
    words = words.strip(" ,.!?")
    words = re.sub(r"(?:\s+(?:as\s+well|too|only|please))+$", "", words, flags=re.IGNORECASE)
    pattern = rf"(?<=\S)\s+(?:in|of|from|on)\s+(?:the|this|that|my|your)\s+{_PICTURE}$"
    return re.sub(pattern, "", words, flags=re.IGNORECASE).strip(" ,")


def region_request(words: str, style: str) -> Request | None:
    """The request for a region's words; None when nothing is left of them."""
    phrase, count = without_determiners(clean_region(words))
    if not phrase or phrase.lower() in DETERMINERS:
        return None
    if (kind := _special(phrase)) is not None:
        return Request(phrase, style, phrase, kind)
    noun, rule = _spatial(phrase, Rule(count=count))
    noun, rule = _counted(noun, rule)
    return Request(phrase, style, noun, rule)


def subject(phrase: str) -> str:
    """What a prompt calls a region: its noun without the position, "picture" for the background or the whole."""
    request = region_request(phrase, "")
    return request.query if request is not None and request.rule.kind == "thing" else "picture"


def _special(phrase: str) -> Rule | None:
    if _match(_WHOLE, phrase):
        return Rule(kind="whole", count=None)
    if _match(_REST, phrase):
        return Rule(kind="rest", count=None)
    found = _match(rf"{_EXCEPT}\s+(?P<anchor>.+)", phrase)
    return Rule(kind="rest", count=None, anchor=without_determiners(found["anchor"])[0]) if found else None


def _rank(word: str) -> int:
    return ORDINALS.get(word.lower()) or int(word[:-2])


def _number(word: str) -> int:
    return NUMBERS.get(word.lower()) or int(word)


def _spatial(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """The phrase without the words that say where, and the rule with them."""
    for step in (_nth_from, _at_side, _in_depth, _related, _superlative, _nth):
        phrase, rule = step(phrase, rule)
    return phrase, rule


_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def _ordered(rule: Rule, order: str, ordinal: str | None, number: str | None = None) -> Rule:
    """Sorted by an order; "last" counts from its other end."""
    if ordinal and ordinal.lower() == "last":
        return replace(rule, order=_OPPOSITE[order], rank=1)
    count = _number(number) if number else rule.count
    return replace(rule, order=order, rank=_rank(ordinal) if ordinal else 1, count=count)


def _nth_from(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """ "second cat from the left", "cat second from the left", "two cats from the left"."""
    tail = rf"from\s+{_THE}(?P<side>{_SIDE})"
    for form in (
        rf"(?P<ord>{_ORD})\s+(?P<noun>.+?)\s+{tail}",
        rf"(?P<noun>.+?),?{_FILLER}\s+{_THE}(?P<ord>{_ORD})\s+{tail}",
        rf"(?P<ord>{_ORD})[\s-]+from[\s-]+{_THE}(?P<side>{_SIDE})\s+(?P<noun>.+)",
        rf"(?P<num>{_NUM})\s+(?P<noun>.+?)\s+{tail}",
    ):
        if found := _match(form, phrase):
            parts = found.groupdict()
            return found["noun"], _ordered(rule, found["side"].lower(), parts.get("ord"), parts.get("num"))
    return phrase, rule


def _at_side(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """ "cat on the left", "tree at the far right side", "star in the top left corner", "cup in the middle"."""
    sides = r"(?:(?:top|upper|bottom|lower)[\s-]+)?(?:left|right)|top|bottom|middle|center|centre"
    tail = rf"(?:\s+(?:hand\s+)?(?:side|half|part|corner|edge))?(?:\s+of\s+{_THE}{_PICTURE})?"
    found = _match(rf"(?P<noun>.+?){_FILLER}\s+(?:on|at|to|in|near)\s+{_THE}(?:far\s+)?(?P<at>{sides}){tail}", phrase)
    if not found:
        return phrase, rule
    words = [_ORDER_OF[word] for word in re.split(r"[\s-]+", found["at"].lower())]
    return found["noun"], replace(rule, order=" ".join(words), half=words != ["center"])


def _in_depth(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """ "tree in the background" (smaller is farther), "man in the foreground"."""
    found = _match(rf"(?P<noun>.+?){_FILLER}\s+(?:in|at)\s+the\s+(?P<at>foreground|front|background|back)", phrase)
    if not found:
        return phrase, rule
    return found["noun"], replace(rule, order="largest" if found["at"].lower().startswith("f") else "smallest")


def _related(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """ "chair on the left of the sofa", "cat under the table"."""
    for relation, words in _RELATIONS:
        if found := _match(rf"(?P<noun>.+?){_FILLER}\s+(?:{words})\s+(?P<anchor>.+)", phrase):
            anchor = without_determiners(found["anchor"])[0]
            return found["noun"], replace(rule, relation=relation, anchor=anchor)
    return phrase, rule


def _superlative(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """ "leftmost cat", "second largest dog", "two leftmost cats", "leftmost two cats"."""
    form = rf"(?:(?P<ord>{_ORD})\s+)?(?:(?P<num>{_NUM})\s+)?(?P<word>{_SUPER})(?:\s+(?P<more>{_NUM}))?\s+(?P<noun>.+)"
    found = _match(form, phrase)
    if not found or (found["ord"] or "").lower() == "last" or rule.order != "score":
        return phrase, rule
    order = _ORDER_OF[found["word"].lower()]
    return found["noun"], _ordered(rule, order, found["ord"], found["num"] or found["more"])


def _nth(phrase: str, rule: Rule) -> tuple[str, Rule]:
    """ "second cat", "last tree": counted from the left, as one reads."""
    found = _match(rf"(?P<ord>{_ORD})\s+(?:(?P<num>{_NUM})\s+)?(?P<noun>.+)", phrase)
    order = "left" if rule.order == "score" else rule.order  # "third cat on the right" counts from there
    if not found or rule.rank != 1 or (found["ord"].lower() == "last" and order not in _OPPOSITE):
        return phrase, rule
    return found["noun"], _ordered(rule, order, found["ord"], found["num"])


def _counted(noun: str, rule: Rule) -> tuple[str, Rule]:
    """A number before the noun, a plural, or a mass such as the sky; the noun to look for is singular."""
    found = _match(rf"(?P<num>{_NUM})\s+(?:of\s+(?:the|these|those|my)\s+)?(?P<noun>.+)", noun)
    if found:
        noun, rule = found["noun"], replace(rule, count=_number(found["num"]))
    words = noun.split()
    at = _head(words)
    single = singular(words[at])
    if single != words[at] and rule.count == 1 and rule.rank == 1 and not found:
        rule = replace(rule, count=None)
    if words[at].lower() in STUFF and rule == Rule():
        rule = replace(rule, count=None)
    return " ".join([*words[:at], single, *words[at + 1 :]]), rule


def _head(words: list[str]) -> int:
    """Where the noun stands that the other words describe: before "with a hat", "in the red dress", "riding"."""
    for at, word in enumerate(words[1:], 1):
        if word.lower() in ("with", "in", "of", "that", "who", "which", "without", "at", "from", "wearing", "holding"):
            return at - 1
        if word.lower().endswith("ing") and at + 1 < len(words) and words[at + 1].lower() in DETERMINERS:
            return at - 1
    return len(words) - 1


def singular(word: str) -> str:
    """A noun's singular; the word itself when it is none of the regular plurals."""
    low = word.lower()
    if low in _IRREGULAR:
        return _IRREGULAR[low]
    if low in _NO_PLURAL or not low.endswith("s") or low.endswith(("ss", "us", "is")) or len(low) < 4:
        return word
    if low.endswith("ies") and len(low) > 4:
        return word[:-3] + "y"
    return word[:-2] if low.endswith(("xes", "ches", "shes", "sses", "zes")) else word[:-1]
