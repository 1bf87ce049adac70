"""Restyling by a sentence over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.comfy_adapters import attached_experts, attached_gates
from ..engine.comfy_host import ComfyHost
from ..engine.comfy_predictor import ComfyPredictor
from ..engine.comfy_tensors import image_of, images_of
from ..engine.errors import RegionStyleError, wrong_input
from ..engine.region import Region
from ..engine.regions import Regions, not_found_notice
from ..grounding.attention import AttentionSettings
from ..grounding.attention_finder import FoundRegions, regions_by_attention
from ..grounding.comfy_regions import check_found, check_pictures
from ..grounding.composition import without_overlaps
from ..grounding.prompt import parse_sentence
from ..grounding.style_names import normal_style
from ..router.comfy_experts import check_gate_batches, region_gates
from ..router.restyle import Restyled, RestyleSettings, restyle_region
from .sentence import named_in, prompt_for, restyle_in_turn


@dataclass(frozen=True)
class SentenceRequest:
    """sentence: what to do ("" with regions: their own styles); template: the prompt of a region; negative: what it
    shall not show; regions: found already, or None; strict: whether a thing that is not found is an error."""

    sentence: str
    template: str
    negative: str
    regions: Regions | None
    strict: bool


@dataclass(frozen=True)
class SentenceResult:
    """image `[B,H,W,3]`; mask `[B,H,W]`, 0 where nothing changed; regions; notice: what was understood and found."""

    image: Tensor
    mask: Tensor
    regions: Regions
    notice: str


def expert_styles(model: Any) -> dict[str, list[str]]:
    """Style words in lower case -> the names of the MODEL's attached experts for them."""
    found: dict[str, list[str]] = {}
    for expert in (weights.source for weights in attached_experts(model)):
        found.setdefault((expert.style or expert.name.replace("-", " ")).lower(), []).append(expert.name)
    return found


def restyle_sentence(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    request: SentenceRequest,
    settings: RestyleSettings,
    looking: AttentionSettings,
) -> SentenceResult:
    """Restyle every region a sentence names, in every picture of a batch, each by the expert of its style."""
    images, styles = images_of(image), expert_styles(model)
    check_gate_batches(attached_gates(model), len(images))
    predictor = ComfyPredictor(model, clip, vae, ComfyHost())
    with predictor.loaded():
        found, understood = _found(predictor, images, request, list(styles) or None, looking)
        check_found(found.notice, request.strict)

        def restyle(picture: Tensor, region: Region) -> Restyled:
            return restyle_region(
                predictor,
                picture,
                region.mask.to(picture),
                prompt_for(region, request.template),
                negative=request.negative if settings.cfg != 1 else None,
                gate=region_gates(model, region.image, styles.get(region.style)),
                settings=settings,
            )

        done = [restyle_in_turn(one[None], found.regions.of_image(at), restyle) for at, one in enumerate(images)]
    notes = [found.notice, understood, "" if styles else "no experts attached: the prompt alone makes the style"]
    pictures, masks = (list(part) for part in zip(*done, strict=True))
    return SentenceResult(
        image_of(torch.cat(pictures)), torch.stack(masks), found.regions, "\n".join(filter(None, notes))
    )


def _found(
    predictor: Any, images: Tensor, request: SentenceRequest, styles: list[str] | None, looking: AttentionSettings
) -> tuple[FoundRegions, str]:
    """The regions, and a line about what was understood."""
    if request.regions is None:
        read = parse_sentence(request.sentence, styles)
        return regions_by_attention(predictor, images, read, looking), str(read)
    check_pictures(request.regions, images)
    if request.sentence.strip():
        read = parse_sentence(request.sentence, styles)
        return named_in(read, request.regions), str(read)
    own = without_overlaps(request.regions.with_items(_styled(one, styles) for one in request.regions))
    shown = "; ".join(dict.fromkeys(f"{one.phrase} -> {one.style}" for one in own)) or "no regions"
    return FoundRegions(own, not_found_notice(own)), shown


def _styled(region: Region, styles: list[str] | None) -> Region:
    """A region with its style as the experts call it."""
    if not region.style:
        raise RegionStyleError(
            f"regions: {region.phrase!r} has no style, expected one when the sentence is empty. Give it one in Regions "
            "from Mask, or write a sentence."
        )
    name = region.style if styles is None else normal_style(region.style, styles)
    if styles is not None and name not in styles:
        remedy = "Attach an expert for it, or change the style."
        raise wrong_input(
            f"regions, {region.phrase!r}", f"style {region.style!r}", f"one of: {', '.join(styles)}", remedy
        )
    return replace(region, style=name)
