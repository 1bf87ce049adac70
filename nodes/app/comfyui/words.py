"""Editing by words over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.adapters.comfy import without_experts
from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import image_of, images_of
from ...engine.io.heatmap import overlay
from ...engine.language.instruction import Instruction
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.regions import Regions
from ...grounding.comfy.regions import check_found
from ...grounding.language.prompt import parse_sentence
from ...tinyworld.editing import bundled_adapter, check_fits, check_instruction
from ...tinyworld.settings import WordsEditSettings
from ...tinyworld.styles import STYLES
from ..edit import EditSettings
from ..ground_instruction import ground_instruction
from ..painters.words import WordsPainter


@dataclass(frozen=True)
class EditedPictures:
    """image `[B,H,W,3]`; attention, laid over each picture, `[B,H,W,3]`; where `[B,H,W]`; notice: what was understood;
    warning: what was not found, and what does not stay as it was."""

    image: Tensor
    attention: Tensor
    where: Tensor
    notice: str
    warning: str


def edit_pictures(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    instruction: str,
    settings: WordsEditSettings,
    *,
    composite: bool,
    strict: bool,
) -> EditedPictures:
    """Follow an instruction in every picture of a batch; what is not in one is left out there, or an error if strict.

    RegionStyleError for another model than the tiny world's, pictures of another size, and words it was not taught.
    """
    images = images_of(image)
    asked = parse_sentence(instruction, list(STYLES))
    for request in asked.requests:
        check_instruction(request.phrase, request.style)
    predictor = ComfyPredictor(without_experts(model), clip, vae, ComfyHost())
    with predictor.loaded():
        check_fits(predictor, images)
        if predictor.recogniser is None:
            raise wrong_input("clip", "another model's", "that of Load Tiny World", "Connect it.")
        found = ground_instruction(predictor, images, asked)
        check_found(found.notice, strict)
        painter = WordsPainter(predictor, bundled_adapter(predictor.network), composite)
        each = [_edited(images[at : at + 1], at, found.regions, painter, settings) for at in range(len(images))]
    made, attention, where = (torch.cat(part) for part in zip(*(one[0] for one in each), strict=True))
    notes = dict.fromkeys(note for one in each for note in one[1])
    warning = "\n".join(filter(None, [found.notice, _not_kept(asked, composite), *notes]))
    return EditedPictures(image_of(made), image_of(attention), where, str(asked), warning)


def _not_kept(asked: Instruction, composite: bool) -> str:
    """What the words want to stay, where only the model decides what does."""
    if composite or not asked.kept:
        return ""
    names = ", ".join(request.phrase for request in asked.kept)
    return f"{names}: the model is not told what stays. Switch composite on to keep it bit for bit"


def _edited(
    image: Tensor, at: int, regions: Regions, painter: WordsPainter, settings: WordsEditSettings
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[str, ...]]:
    """One picture `[1,3,H,W]` edited, the attention over it and where it was drawn anew `[1,H,W]`; and notes."""
    there = [region for region in regions.of_image(at) if bool((region.mask > 0).any())]
    if not there:
        return (image, image.clone(), torch.zeros_like(image[:, 0])), ()
    chosen = EditSettings(seed=settings.seed, steps=settings.steps, cfg=settings.cfg)
    result, made = painter.painted(image, there, chosen)
    looked, where = (
        F.interpolate(maps.amax(1, keepdim=True), image.shape[-2:], mode="bilinear")[0, 0]
        for maps in (made.attention, made.where)
    )
    return (result.image, overlay(image, looked), where[None]), result.notes
