"""A stack of style experts before it meets a network: files with names, style phrases and strengths.

The value behind the ComfyUI socket REGIONSTYLE_EXPERTS. Files are read when the stack is attached to a network, which
says whether they fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ..engine.errors import wrong_input
from ..engine.lora.expert import Expert
from ..engine.lora.style_key import style_key

EXPERTS_TYPE = "REGIONSTYLE_EXPERTS"


@dataclass(frozen=True, eq=False)
class StackedExpert:
    """source: a LoRA file, a PEFT folder or an `Expert`; name: what gates call it; phrases: the words that mean its
    style, the first being the usual ones; strength: 1 as trained."""

    source: Path | Expert
    name: str
    phrases: tuple[str, ...]
    strength: float = 1.0

    def load(self, network: nn.Module) -> Expert:
        """The expert for a network. RegionStyleError for a file that does not fit it or is no plain LoRA."""
        from .published_experts import load_style_expert

        source, options = self.source, {"network": network, "ignore_text_encoder": True}
        expert = source if isinstance(source, Expert) else load_style_expert(source, **options)
        return replace(expert, name=self.name, style=self.phrases[0])


@dataclass(frozen=True, eq=False)
class Experts:
    """Experts in their order. RegionStyleError for two of one name, and for a phrase that means two of them."""

    items: tuple[StackedExpert, ...] = ()

    def __post_init__(self) -> None:
        names = [item.name for item in self.items]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise wrong_input("experts", f"{twice} twice", "different names", "Give one of them another name.")
        owners: dict[str, str] = {}
        for item in self.items:
            if not any(style_key(phrase) for phrase in item.phrases):
                raise wrong_input(f"expert {item.name!r}", "no style phrase", "one or more", "Type its style's words.")
            for phrase in {style_key(phrase) for phrase in item.phrases}:
                if owners.setdefault(phrase, item.name) != item.name:
                    got = f"{phrase!r} for {owners[phrase]!r} and {item.name!r}"
                    raise wrong_input("phrases", got, "words of one expert each", "Change the phrases of one of them.")

    def __iter__(self) -> Iterator[StackedExpert]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __add__(self, item: StackedExpert) -> Experts:
        return Experts((*self.items, item))

    @property
    def names(self) -> list[str]:
        return [item.name for item in self.items]

    def of_style(self, style: str) -> StackedExpert:
        """The expert that a style's words mean. RegionStyleError listing the styles that have one."""
        wanted = style_key(style)
        for item in self.items:
            if wanted in {style_key(word) for word in (item.name, *item.phrases)}:
                return item
        known = ", ".join(repr(phrase) for item in self.items for phrase in item.phrases) or "none: the stack is empty"
        remedy = "Add an expert for it, or one of its phrases to an expert."
        raise wrong_input("style", f"{style!r}, which has no expert", f"one of: {known}", remedy)


def phrases_of(text: str) -> tuple[str, ...]:
    """Phrases written with commas, semicolons or line breaks between them, each once."""
    parts = (part.strip() for part in re.split(r"[,;\n]", text))
    return tuple({style_key(part): part for part in parts if style_key(part)}.values())
