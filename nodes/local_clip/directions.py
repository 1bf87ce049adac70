"""The direction in CLIP's space from a photograph to a style (LEAST, section 3.2: Delta T)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .losses import exact
from .networks import TextImageTowers
from .presets import Preset
from .templates import in_sentences

SMALLEST = 1e-3  # length of a difference of two unit vectors that is no more than rounding


def style_words(style: str, preset: Preset) -> str:
    """The style's text as the preset takes it. RegionStyleError when nothing is left of it."""
    words = " ".join(style.split())
    if preset.style_text == "cleaned":
        words = words.lower().replace("style", "")
    if not words.strip():
        raise wrong_input("style", repr(style), "words for the style", "Type for example 'stained glass'.")
    return words


@torch.no_grad()
def style_direction(clip: TextImageTowers, style: str, preset: Preset) -> Tensor:
    """unit(E(style) - E(source)), `[D]`; each E the mean over the sentences, then normalised.

    RegionStyleError for no words, a text that is too long, and words that CLIP cannot tell from a photograph.
    """
    wanted, source = (_embedded(clip, words) for words in (style_words(style, preset), clip.source))
    direction = wanted - source
    length = float(torch.linalg.vector_norm(direction))
    if not length > SMALLEST:
        got = f"{style!r}, which {clip.name} cannot tell from {clip.source!r}"
        raise wrong_input("style", got, "words for another look", "Describe the style in other words.")
    return direction / length


def _embedded(clip: TextImageTowers, words: str) -> Tensor:
    return F.normalize(exact(clip.embed_texts(in_sentences(words, clip.templates))).mean(0), dim=-1)
