"""What the SMS paper's text and its published code do differently, as two named presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..engine.errors import wrong_input


@dataclass(frozen=True)
class Preset:
    """One reading of the method.

    weight: w_t of the style gradient, "variance" (the code's) or "noise" (1 - squared alpha); prompt: what style
    and fake predictor read, with the style's words before the caption ("style first") or, as a LoRA's trigger words,
    after it ("caption first"); relevance: channels averaged before ("mean_first") or after
    ("absolute_first") the absolute value; power: of the spectrum term (1: mean size, 2: mean square); fake_weight:
    noise error of the fake predictor weighted by the "signal" (squared alpha) or "none"; times: timesteps drawn from
    a "grid" of every second step or "real" numbers; balance: weight of the spectrum term; guidance: classifier-free.
    """

    name: str
    weight: Literal["variance", "noise"]
    prompt: Literal["style first", "caption first"]
    relevance: Literal["mean_first", "absolute_first"]
    power: Literal[1, 2]
    fake_weight: Literal["signal", "none"]
    times: Literal["grid", "real"]
    balance: float = 5e-4
    guidance: float = 4.5

    def style_prompt(self, style: str, caption: str) -> str:
        """What style and fake predictor read of a picture: the style's words and the caption, if there is one."""
        parts = (style, caption) if self.prompt == "style first" else (caption, style)
        return ", ".join(part for part in parts if part)


REFERENCE = Preset("reference", "variance", "style first", "mean_first", 1, "signal", "grid")
PAPER = Preset("paper", "noise", "caption first", "absolute_first", 2, "none", "real")
PRESETS = {preset.name: preset for preset in (REFERENCE, PAPER)}


def preset(name: str) -> Preset:
    """The preset of a name. RegionStyleError listing them."""
    if name not in PRESETS:
        raise wrong_input("preset", repr(name), f"one of {list(PRESETS)}", "'reference' is the published code.")
    return PRESETS[name]
