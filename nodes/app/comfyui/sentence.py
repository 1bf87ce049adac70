"""Restyling by a sentence over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...engine.adapters.comfy import attached_experts, attached_gates, without_experts
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import image_of, images_of
from ...engine.lora.expert import Expert
from ...engine.lora.style_words import full_name, names_itself, words_of_style
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.region import Region
from ...engine.region.regions import Regions, not_found_notice
from ...grounding.comfy.regions import check_found, check_pictures
from ...grounding.finders.attention import AttentionSettings
from ...grounding.finders.attention_finder import FoundRegions
from ...grounding.language.bare_style import bare_style, parse_for_region
from ...grounding.language.prompt import parse_sentence
from ...grounding.language.style_names import normal_style
from ...grounding.masks.composition import without_overlaps
from ...router.comfy.experts import check_gate_batches, region_gates
from ...router.restyle import RestyleSettings
from ..edit import EditSettings, edit
from ..ground_instruction import Where, ground_instruction
from ..painters.expert import ExpertPainter
from ..stylize import harmonized

STRENGTH_KEY = "regionstyle_strength"  # metadata of a LoRA file: the strength its style wants


@dataclass(frozen=True)
class SentenceRequest:
    """sentence: what to do ("" with regions: their own styles); template: the prompt of a region; negative: what it
    shall not show; regions: found already, or None; strict: whether a thing that is not found is an error; harmonize:
    whether what was restyled is fitted to the light around it afterwards."""

    sentence: str
    template: str
    negative: str
    regions: Regions | None
    strict: bool
    harmonize: bool = False


@dataclass(frozen=True)
class SentenceResult:
    """image `[B,H,W,3]`; mask `[B,H,W]`, 0 where nothing changed; regions; notice: what was understood; warning: what
    was not found or not changed, and why ("": nothing)."""

    image: Tensor
    mask: Tensor
    regions: Regions
    notice: str
    warning: str


def expert_styles(model: Any) -> dict[str, list[str]]:
    """Style words in lower case -> the names of the MODEL's attached experts for them."""
    names: dict[str, list[str]] = {}
    for words, expert in _by_words(model):
        names.setdefault(words, []).append(expert.name)
    return names


def _by_words(model: Any) -> list[tuple[str, Expert]]:
    """What sentences call each attached expert's style, in lower case.

    Not `style_key`: these words are shown, and grounding compares them. Where several file names come down to one word,
    that word would be ambiguous: they keep all of theirs, which errors list.
    """
    experts = [weights.source for weights in attached_experts(model)]
    words = [words_of_style(expert).lower() for expert in experts]
    return [
        (full_name(expert.name) if words.count(own) > 1 and not names_itself(expert) else own, expert)
        for own, expert in zip(words, experts, strict=True)
    ]


def own_strengths(model: Any) -> dict[str, float | None]:
    """Style words in lower case -> how much of a picture its expert redraws best; None where nobody says."""
    from ...tinyworld.bundled import preferred_strength

    strengths: dict[str, float | None] = {}
    for words, expert in _by_words(model):
        named = expert.metadata.get(STRENGTH_KEY)
        own = preferred_strength(expert) if named is None else _named_strength(named, expert.name)
        strengths.setdefault(words, own)
    return strengths


def own_in_tiles(model: Any) -> dict[str, dict[str, Any]]:
    """Style words in lower case -> how its expert paints tiles best, for those that come with the pack."""
    from ...tinyworld.bundled import in_tiles, preferred_strength

    bundled = [(words, one) for words, one in _by_words(model) if STRENGTH_KEY not in one.metadata]
    return {words: in_tiles(one.style) for words, one in bundled if preferred_strength(one) is not None}


def _named_strength(text: str, name: str) -> float:
    """The number in an expert file's metadata."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        remedy = "Correct the file's metadata, or set strength yourself."
        raise wrong_input(f"{STRENGTH_KEY} of {name!r}", repr(text), "a number above 0, at most 1", remedy)
    return value


def for_style(settings: RestyleSettings, style: str, own: dict[str, float | None]) -> RestyleSettings:
    """The settings for a region's style: with strength 0 its expert's own. RegionStyleError when it has none."""
    if settings.strength > 0:
        return settings
    strength = own.get(style.lower())
    if strength is None:
        got, accepts = f"0 for the style {style!r}", "more than 0, since no attached expert names a strength for it"
        raise wrong_input("strength", got, accepts, f"Set it, or write {STRENGTH_KEY} into the LoRA's metadata.")
    return replace(settings, strength=strength)


def in_tiles(
    settings: RestyleSettings, style: str, own: dict[str, float | None], tiled: dict[str, dict[str, Any]]
) -> RestyleSettings:
    """`for_style` where a region is painted in tiles: with strength 0 as its expert paints tiles best."""
    if settings.strength > 0 or style.lower() not in tiled:
        return for_style(settings, style, own)
    best = tiled[style.lower()]
    kept = {"steps": settings.steps} | ({} if settings.detail == "auto" else {"detail": settings.detail})
    return replace(settings, **{**best, **kept})


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
    own, tiled = own_strengths(model), own_in_tiles(model)
    check_gate_batches(attached_gates(model), len(images))
    # Things are looked for in the picture as it is: experts that act everywhere would draw their styles over it.
    finder = ComfyPredictor(without_experts(model), clip, vae, ComfyHost())
    with finder.loaded():
        found, understood = _found(finder, images, request, list(styles) or None, looking)
    check_found(found.notice, request.strict)
    predictor = ComfyPredictor(model, clip, vae, ComfyHost())
    painter = ExpertPainter(
        predictor,
        usual=lambda style: for_style(settings, style, own),
        tiled=lambda style: in_tiles(settings, style, own, tiled),
        gate_of=lambda region: region_gates(model, region.image, styles.get(region.style)),
    )
    words = EditSettings(template=request.template, negative=request.negative)
    with predictor.loaded():
        edited = edit(images, found.regions, painter, words)
    if request.harmonize:
        edited = harmonized(edited, ComfyHost())
    plain = "" if styles else "no experts attached: the prompt alone makes the style"
    warning = "\n".join(filter(None, [found.notice, plain, edited.warning(images)]))
    return SentenceResult(image_of(edited.image), edited.mask, found.regions, understood, warning)


def _found(
    predictor: Any, images: Tensor, request: SentenceRequest, styles: list[str] | None, looking: AttentionSettings
) -> tuple[FoundRegions, str]:
    """The regions, and a line about what was understood."""
    if request.regions is not None:
        check_pictures(request.regions, images)
        if not request.sentence.strip():
            return _as_they_are(request.regions, styles)
        if style := bare_style(request.sentence, styles):
            asked = request.regions.with_items(replace(region, style=style) for region in request.regions)
            return _as_they_are(asked, styles)
    read = parse_sentence if request.regions is None else parse_for_region
    instruction = read(request.sentence, styles)
    where = Where(regions=request.regions, attention=looking)
    return ground_instruction(predictor, images, instruction, where), str(instruction)


def _as_they_are(regions: Regions, styles: list[str] | None) -> tuple[FoundRegions, str]:
    """Regions that bring their own styles, without overlaps, and a line about them."""
    styled = without_overlaps(regions.with_items(_styled(region, styles) for region in regions))
    shown = "; ".join(dict.fromkeys(f"{region.phrase} -> {region.style}" for region in styled)) or "no regions"
    return FoundRegions(styled, not_found_notice(styled)), shown


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
