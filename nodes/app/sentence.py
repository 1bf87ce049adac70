"""Restyling everything a sentence names: one region after the other, each by its own mask, on the result so far.

What a region's prompt says and which expert acts in it is decided here, for the command line, demo and evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..engine.adapters.gates import Gates, RegionGate
from ..engine.errors import RegionStyleError, wrong_input
from ..engine.language.instruction import Instruction
from ..engine.language.region_words import bare_words, subject
from ..engine.region.region import Region
from ..engine.region.regions import Regions
from ..grounding.finders.attention_finder import FoundRegions, find_regions
from ..grounding.finders.sentence_regions import Finder, as_called
from ..router.restyle import Restyled, RestyleSettings, restyle_region
from .stylize_generator import Painted

TEMPLATE = "a {phrase} in {style} style"
WHOLE = "whole picture"  # the phrase of a region that is no thing


def restyle_in_turn(
    image: Tensor, regions: Sequence[Region], restyle: Callable[[Tensor, Region], Restyled | Painted]
) -> tuple[Tensor, Tensor]:
    """Restyle the regions of a picture `[1,3,H,W]` in their order; those with an empty mask are left out.

    Each is cut out of the result so far (LEAST, section A1 step 6: the composite is the next content image). Returns
    the picture and the mask `[H,W]`: where it is 0 nothing changed, bit for bit.
    """
    mask = torch.zeros(image.shape[-2:])
    for region in regions:
        if bool((region.mask > 0).any()):
            made = restyle(image, region)
            image, mask = made.image, torch.maximum(mask, made.mask.float().cpu())
    return image, mask


def prompt_for(region: Region, template: str = TEMPLATE) -> str:
    """What the model is told to draw in a region; RegionStyleError when the template has no place for the style."""
    if "{style}" not in template:
        raise RegionStyleError(
            f"template: got {template!r}, expected {{style}} in it, and {{phrase}} where the thing belongs. "
            f"Use for example {TEMPLATE!r}."
        )
    return template.replace("{phrase}", subject(region.phrase)).replace("{style}", region.style)


def restyle_with_expert(
    predictor: Any, image: Tensor, region: Region, settings: RestyleSettings, negative: str | None = None
) -> Restyled:
    """Restyle a region of a picture `[1,3,H,W]` with the predictor's expert of its style, inside the region only."""
    return restyle_region(
        predictor,
        image,
        region.mask,
        prompt_for(region),
        negative=negative,
        settings=settings,
        gate=lambda inside, cut: style_gates(predictor, region.style, inside),
    )


def style_gates(predictor: Any, style: str, inside: Tensor) -> Gates | None:
    """The expert of a style acts inside a mask; a single expert whatever its name; None for a model without experts.

    RegionStyleError when none of several experts is called like the style.
    """
    names = list(predictor.experts.names) if predictor.experts is not None else []
    chosen = names if len(names) < 2 else [name for name in names if name == style]
    if names and not chosen:
        raise wrong_input("style", repr(style), f"one of {', '.join(names)}", "Use one of these.")
    return Gates({name: RegionGate(inside) for name in chosen}) if chosen else None


def named_in(sentence: Instruction, regions: Regions) -> FoundRegions:
    """The regions of a sentence among given ones, by their words; positions choose among those of one phrase.

    RegionStyleError for a thing that none of the regions is called.
    """
    names = {bare_words(phrase) for phrase in regions.phrases}
    read = as_called(sentence, names)

    def finder_of(picture: Tensor, image: int) -> Finder:
        items = regions.of_image(image)
        return lambda query, apart: [one for one in items if bare_words(one.phrase) == _known(query, names)]

    pictures = torch.empty(1, 1, 1, 1).expand(regions.batch, 3, regions.height, regions.width)
    return find_regions(pictures, read, finder_of)


def _known(query: str, names: set[str]) -> str:
    if bare_words(query) not in names:
        known = ", ".join(repr(name) for name in sorted(names)) or "nothing: there are no regions"
        raise RegionStyleError(
            f"sentence: got {query!r}, expected the words of a region: {known}. Use these words, or leave regions "
            "unconnected to find things by attention."
        )
    return bare_words(query)
