"""Regions of a sentence by the model's own attention: one look per thing, parts of the mask as instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...engine.language.instruction import Instruction
from ...engine.language.nouns import with_article
from ...engine.language.region_words import without_determiners
from ...engine.predictor.base import NoisePredictor
from ...engine.region.region import Region
from ...engine.region.regions import Regions, region_of
from ..masks.refine import mask_parts
from ..settings import AttentionSettings
from .attention import Grounding, attention_logodds, mask_from_logodds
from .presence import Look, check_known, find_present, kept_if_sure
from .sentence_regions import Finder, found_notice, queries, sentence_regions

# Smaller parts of an attention map, against its largest one, are specks and no things of their own.
SMALLEST_PART = 0.1
# Things of one name that have to be told apart may differ more from each other than parts of one thing do.
INSTANCE_TOLERANCE = 1.5


@dataclass(frozen=True)
class FoundRegions:
    """regions of a batch; notice: what was not found, "" when all was; said: how they were outlined; outlined: boxes
    that stayed boxes though more was asked for."""

    regions: Regions
    notice: str
    said: str = ""
    outlined: tuple[str, ...] = ()


def competing_queries(query: str, others: Sequence[str]) -> list[str]:
    """The other things asked for that a place may belong to instead.

    Left out are things whose words hold the query's, and the other way round: "the red cat" is a cat too.
    """
    own = f" {query.lower()} "
    return [other for other in others if own not in f" {other.lower()} " and f" {other.lower()} " not in own]


def attention_finder(
    predictor: NoisePredictor, image: Tensor, instruction: Instruction, settings: AttentionSettings
) -> Finder:
    """Looks for the things of an instruction in a picture `[1,3,H,W]`: each once, alone in its caption, then compared.

    Attention finds all things of one name together: where they have to be told apart, the parts of the mask are
    taken for the things, so those that touch count as one (`split_instances` tells them apart).
    """
    words, maps, groundings = queries(instruction), {}, {}
    if predictor.recogniser is not None:
        for query in words:
            check_known(query, predictor.recogniser)

    def logodds_of(query: str, caption: str = "") -> Tensor:
        key = query, caption or with_article(query)
        if key not in maps:
            with torch.no_grad():
                maps[key] = attention_logodds(predictor, image, *key, settings)
        return maps[key]

    def find(query: str, apart: bool) -> list[Region]:
        if (query, apart) not in groundings:
            predictor.host.check()
            competing_maps = [logodds_of(other) for other in competing_queries(query, words)]
            tolerant = (
                replace(settings, component_tolerance=max(settings.component_tolerance, INSTANCE_TOLERANCE))
                if apart
                else settings
            )
            groundings[query, apart] = _grounding(
                predictor, logodds_of, image, query, with_article(query), tolerant, competing_maps
            )
        return _instances(query, groundings[query, apart], apart)

    return find


def _instances(query: str, grounding: Grounding, apart: bool) -> list[Region]:
    mask = grounding.mask.float().cpu()
    parts = mask_parts(mask, SMALLEST_PART) if apart else [mask]
    return [region_of(query, part, score=grounding.score) for part in parts]


def find_regions(images: Tensor, instruction: Instruction, finder: Callable[[Tensor, int], Finder]) -> FoundRegions:
    """The instruction's regions in images `[B,3,H,W]`; finder: makes one for a picture `[1,3,H,W]` and its index."""
    size = (int(images.shape[-2]), int(images.shape[-1]))
    results = [
        sentence_regions(instruction, finder(image[None], index), size, index) for index, image in enumerate(images)
    ]
    regions = Regions(tuple(region for result in results for region in result.regions), *size, len(images))
    return FoundRegions(regions, found_notice(regions, results))


def regions_by_attention(
    predictor: NoisePredictor, images: Tensor, instruction: Instruction, settings: AttentionSettings | None = None
) -> FoundRegions:
    """The regions of an instruction in images `[B,3,H,W]` in 0..1, by the predictor's attention.

    Use inside `loaded()`.
    """
    settings = settings or AttentionSettings()
    return find_regions(
        images, instruction, lambda image, index: attention_finder(predictor, image, instruction, settings)
    )


def ground_by_attention(
    predictor: NoisePredictor,
    image: Tensor,
    phrase: str,
    caption: str | None = None,
    settings: AttentionSettings | None = None,
) -> Grounding:
    """Find a phrase in a picture `[1,3,H,W]` in 0..1; caption: the prompt it stands in (default: the phrase with its
    article, "an orange triangle"). Determiners before the phrase are not looked for.

    Where the predictor has a recogniser, what that does not see is not found, and words it was never taught are a
    RegionStyleError.
    """
    settings, query = settings or AttentionSettings(), without_determiners(phrase)[0]

    @torch.no_grad()
    def logodds_of(words: str, said: str) -> Tensor:
        return attention_logodds(predictor, image, words, said, settings)

    caption = caption or with_article(phrase)
    return _grounding(predictor, logodds_of, image, query, caption, settings)


def _grounding(
    predictor: NoisePredictor,
    logodds_of: Look,
    image: Tensor,
    query: str,
    caption: str,
    settings: AttentionSettings,
    competing_maps: Sequence[Tensor] = (),
) -> Grounding:
    """The query's mask: where the predictor has a recogniser, only what that sees too; never below `min_score`."""
    if predictor.recogniser is None:
        grounding = mask_from_logodds(logodds_of(query, caption), settings, competing_maps)
    else:
        grounding = find_present(logodds_of, image, query, predictor.recogniser, settings, competing_maps, caption)
    return kept_if_sure(grounding, settings.min_score)
