"""What a style is called by people: words of its file's metadata, else of the file's name.

`ghibli_style_offset_v4.safetensors` is asked for as "ghibli", and the model is told "ghibli", not the file's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .expert import Expert

TRIGGER = "modelspec.trigger_phrase"  # of the ModelSpec standard, which kohya's and other trainers write
_LONGEST = 4  # words of a trigger phrase that is a name
# Parts of file names that tell how a file was made.
_MADE_HOW = """
lora locon loha lokr lycoris dora style styles offset noise noiseoffset epoch epochs step steps final last pruned fp16
fp32 bf16 fp8 float16 half ema test beta alpha version ver weights model concept checkpoint ckpt sd sdxl xl sd1 sd15 sd2
sd21 sd3 sd35 flux flux1 dev schnell pony illustrious base trained training rank dim net
"""
_FILLERS = frozenset(_MADE_HOW.split())
_VERSION = re.compile(r"v\d+[a-z]?|\d+|\d+(?:k|st)?steps?|e\d+|ep\d+|epoch\d+|step\d+|rank\d+|dim\d+|r\d+|[ab]\d+")


def words_of_style(expert: Expert) -> str:
    """The words that prompts name an expert's style by.

    In this order: those that this pack's trainer wrote, the first phrase of the trigger that another trainer wrote if
    it is a name, the words of the expert's name without versions and fillers, the name.
    """
    return expert.style or _trigger(expert.metadata.get(TRIGGER, "")) or name_words(expert.name)


def names_itself(expert: Expert) -> bool:
    """Whether an expert's file says its style, so that its name need not."""
    return bool(expert.style or _trigger(expert.metadata.get(TRIGGER, "")))


def name_words(name: str) -> str:
    """The words of a file's name, without versions and fillers: "ghibli" of ghibli_style_offset_v4.

    All of them where nothing else would be left.
    """
    words = full_name(name).split()
    return " ".join(_without_fillers(words)) or " ".join(words) or name


def full_name(name: str) -> str:
    """All words of a file's name, in lower case."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name)  # GhibliStyle
    return " ".join(re.sub(r"[-_+.,()\[\]\s]+", " ", apart).lower().split())


def _without_fillers(words: Iterable[str]) -> list[str]:
    return [word for word in words if word not in _FILLERS and not _VERSION.fullmatch(word)]


def _trigger(text: str) -> str:
    """The first phrase of a trigger, without a final "style"; "" when it is a sentence or nothing."""
    words = text[:200].split(",")[0].lower().split()
    words = words[:-1] if len(words) > 1 and words[-1] == "style" else words
    return " ".join(words) if len(words) <= _LONGEST else ""
