"""Nouns and what stands before them: which word of a phrase is the noun, its singular, and those that are masses."""

from __future__ import annotations

import re

_DETERMINERS = "the a an this that these those my his her its our your their all every each both some any only just"
DETERMINERS = frozenset(_DETERMINERS.split())
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
_VOWEL = re.compile(r"[aeiou8]|(?:11|18)\b|hour|honest|heir", re.IGNORECASE)
# written with a vowel and spoken with a consonant: "a unicorn", "a one-eyed cat"
_CONSONANT = re.compile(r"uni(?!n|m)|use|usu|euro|ewe|ukulele|utensil|one\b|once", re.IGNORECASE)
_AFTER_WORDS = "with in of that who which without at from between wearing holding"
_AFTER_NOUN = frozenset(_AFTER_WORDS.split())


def singular_noun(phrase: str) -> str:
    """A phrase with its noun in the singular: "men with hats" -> "man with hats"."""
    words = phrase.split()
    place = head(words)
    return " ".join([*words[:place], singular(words[place]), *words[place + 1 :]])


def head(words: list[str]) -> int:
    """Where the noun stands that the other words describe: before "with a hat", "in the red dress", "riding"."""
    for place, word in enumerate(words[1:], 1):
        if word.lower() in _AFTER_NOUN:
            return place - 1
        if word.lower().endswith("ing") and place + 1 < len(words) and words[place + 1].lower() in DETERMINERS:
            return place - 1
    return len(words) - 1


def with_article(phrase: str) -> str:
    """A phrase with "a" or "an" before it, by the sound it begins with; one that has a determiner stays."""
    words = phrase.split()
    if len(words) > 1 and words[0].lower() in DETERMINERS:
        return phrase
    return f"{article(phrase)} {phrase}"


def article(phrase: str) -> str:
    """ "an" or "a", by the sound a phrase begins with."""
    return "an" if _VOWEL.match(phrase) is not None and _CONSONANT.match(phrase) is None else "a"


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
