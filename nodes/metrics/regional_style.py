"""The Regional Style Editing Score (RegionRoute, arXiv:2602.19254): style inside, nothing outside.

RSM = (1 + cos(CLIP_image(crop of the region), CLIP_text(style))) / 2, higher is better.
LPIPS_bg, MSE_bg: distance to the source outside the region, lower is better.
What the paper leaves open is a named option of `RegionalStyleSettings`; its defaults are this project's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_mask, check_not_empty, check_one_each, check_pair
from .measurement import Measurement, check_tiny
from .networks.perceptual import PerceptualDistance
from .pixels import masked_mse
from .settings import RegionalStyleSettings
from .text_image import TextImageModel, region_crop, similarity


@dataclass(frozen=True)
class RegionalStyleScore:
    """The three numbers of one picture or of several."""

    rsm: Measurement
    lpips_bg: Measurement
    mse_bg: Measurement

    def all(self) -> list[Measurement]:
        return [self.rsm, self.lpips_bg, self.mse_bg]


def regional_style_match(
    model: TextImageModel, images: Tensor, mask: Tensor, styles: Sequence[str], settings: RegionalStyleSettings
) -> Tensor:
    """RSM per picture, `[B]` in 0..1. images `[B,3,H,W]`, mask `[B,H,W]`, one style per picture."""
    mask = check_mask(mask, images)
    check_not_empty(mask, "region")
    check_one_each(styles, images, "styles")
    texts = [settings.sentence.replace("{style}", style) for style in styles]
    crops = [region_crop(image, part, settings.margin) for image, part in zip(images, mask, strict=True)]
    cosines = [similarity(model, crop, [text]) for crop, text in zip(crops, texts, strict=True)]
    return (1 + torch.cat(cosines)) / 2


def background_distance(
    distance: PerceptualDistance, result: Tensor, source: Tensor, mask: Tensor, settings: RegionalStyleSettings
) -> Tensor:
    """LPIPS_bg per picture, `[B]`."""
    check_pair(result, source)
    outside = 1 - _region(mask, result, settings)
    check_not_empty(outside, "background")
    if settings.background == "map":
        return distance.masked(result, source, outside, "background")
    weight = outside[:, None].to(result)
    return distance(result * weight + source * (1 - weight), source)


def _region(mask: Tensor, images: Tensor, settings: RegionalStyleSettings) -> Tensor:
    mask = check_mask(mask, images)
    return mask if settings.soft else (mask > 0.5).to(mask)


def regional_style_score(
    model: TextImageModel,
    distance: PerceptualDistance,
    result: Tensor,
    source: Tensor,
    mask: Tensor,
    styles: Sequence[str],
    settings: RegionalStyleSettings | None = None,
) -> RegionalStyleScore:
    """All three numbers, each the mean over the batch.

    result and source `[B,3,H,W]` in 0..1, mask `[B,H,W]` or `[H,W]` in 0..1 (1 = the region). RegionStyleError for
    a mask without region or without background, or pictures of different sizes.
    """
    settings = settings or RegionalStyleSettings()
    check_pair(result, source)
    rsm = regional_style_match(model, result, mask, styles, settings)
    lpips = background_distance(distance, result, source, mask, settings)
    outside = 1 - _region(mask, result, settings)
    error = masked_mse(result, source, outside, settings.pixel_range, "background")
    count = len(result)
    return RegionalStyleScore(
        Measurement(check_tiny("RSM", model.backbone), float(rsm.mean()), model.backbone, "0..1", count),
        Measurement(check_tiny("LPIPS_bg", distance.backbone), float(lpips.mean()), distance.backbone, "-1..1", count),
        Measurement("MSE_bg", float(error.mean()), "", settings.pixel_range, count),
    )
