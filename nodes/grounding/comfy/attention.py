"""Attention grounding over ComfyUI's objects, picture by picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.adapters.comfy import without_experts
from ...engine.errors import RegionStyleError
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import image_of, images_of
from ...engine.io.heatmap import overlay
from ...engine.predictor.comfy import ComfyPredictor
from ..finders.attention import Grounding
from ..finders.attention_finder import ground_by_attention
from ..language.written_words import check_text, check_words
from ..settings import AttentionSettings


@dataclass(frozen=True)
class BatchGrounding:
    """masks `[B,H,W]`, pictures `[B,H,W,3]`, the first image's score; what was found, and what not ("": nothing)."""

    masks: Tensor
    pictures: Tensor
    score: float
    notice: str
    warning: str


def find_in_batch(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    phrase: str,
    caption: str,
    settings: AttentionSettings,
    strict: bool,
) -> BatchGrounding:
    """Look for a phrase in every image of a batch, with experts of the MODEL off: they would draw their styles over it.

    RegionStyleError for an empty phrase, or one not found if strict.
    """
    if not phrase.strip():
        raise RegionStyleError(
            "phrase: got nothing, expected words for the thing to find. Type for example 'red star'."
        )
    check_words(phrase, "phrase")
    check_text(caption, "caption")
    images = images_of(image)
    predictor = ComfyPredictor(without_experts(model), clip, vae, ComfyHost())
    with predictor.loaded():
        groundings = [
            ground_by_attention(predictor, picture[None], phrase.strip(), caption.strip() or None, settings)
            for picture in images
        ]
    missing = [str(index) for index, grounding in enumerate(groundings) if not grounding.found]
    if missing and strict:
        raise RegionStyleError(
            f"phrase: {phrase!r} was not found in image {', '.join(missing)}. Use other words, lower "
            "the bias, or switch strict off."
        )
    return _batch_grounding(images, groundings, phrase, missing)


def _batch_grounding(images: Tensor, groundings: list[Grounding], phrase: str, missing: list[str]) -> BatchGrounding:
    masks = torch.stack([grounding.mask.float().cpu() for grounding in groundings])
    pictures = torch.cat(
        [overlay(picture[None], grounding.logodds) for picture, grounding in zip(images, groundings, strict=True)]
    )
    scores = ", ".join(f"{grounding.score:.2f}" for grounding in groundings if grounding.found)
    notice = f"'{phrase}' found (score {scores})" if scores else ""
    warning = f"'{phrase}' not found in image {', '.join(missing)}: empty mask, score 0" if missing else ""
    return BatchGrounding(masks, image_of(pictures), groundings[0].score, notice, warning)
