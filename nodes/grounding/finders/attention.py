"""Finding a phrase with the model's own attention: no second network.

The picture's latent is noised a little, the model is asked to remove the noise with a prompt that names the thing,
and the cross-attention of the phrase's tokens is read (log-odds against the other words, `kernels.token_logodds`).
Several noises and noise levels are averaged; the map is brought to the picture's size and edges (guided filter) and
cut into a soft mask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from ...engine.attention.tap import AttentionTap
from ...engine.errors import RegionStyleError
from ...engine.language.nouns import with_article
from ...engine.predictor.base import NoisePredictor, Text
from ...engine.predictor.tokens import find_phrase
from ...engine.region.region import RegionCrop
from ..masks.refine import guided_filter, mask_parts
from ..settings import AttentionSettings


@dataclass(frozen=True)
class Grounding:
    """logodds `[H,W]` at the picture's size, mask `[H,W]` in 0..1, score: mean probability inside the mask."""

    logodds: Tensor
    mask: Tensor
    score: float
    found: bool


def phrase_groups(text: Text, phrase: str) -> tuple[Tensor, Tensor]:
    """Token group bool `[1,M]` of the phrase and the valid words `[M]`.

    RegionStyleError when the prompt holds no word beside the phrase: log-odds compare words with each other.
    """
    group = torch.zeros(1, text.valid.shape[1], dtype=torch.bool)
    group[0, find_phrase(text, phrase)] = True
    valid = text.valid[0].cpu()
    if not (valid & ~group[0]).any():
        raise RegionStyleError(
            f"caption: got only the phrase {phrase!r}, expected other words beside it. "
            f"Use for example {with_article(phrase)!r}."
        )
    return group, valid


def attention_logodds(
    predictor: NoisePredictor, image: Tensor, phrase: str, caption: str, settings: AttentionSettings
) -> Tensor:
    """Log-odds map `[H,W]` of a phrase of the caption over the picture `[1,3,H,W]` in 0..1.

    The whole picture is looked at once, at the model's native size (a picture that is not square is padded).
    Cancel is checked, and progress reported, at every forward pass.
    """
    height, width = image.shape[-2:]
    crop = RegionCrop.around(
        (0, 0, width, height),
        (height, width),
        native=predictor.native_size,
        grid=predictor.factor,
        margin=0.0,
        largest_scale=float("inf"),
    )
    view = crop.cut(image)
    coarse = _average_map(predictor, view, phrase, caption, settings)
    worked = F.interpolate(coarse[None, None], (crop.size, crop.size), mode="bicubic")
    radius = round(settings.radius * crop.size)
    worked = guided_filter(worked, view.to(worked), radius) if radius else worked
    blank = torch.zeros(1, 1, height, width, device=worked.device)
    return crop.paste(blank, worked, torch.ones(height, width, device=worked.device))[0, 0]


def _average_map(
    predictor: NoisePredictor, view: Tensor, phrase: str, caption: str, settings: AttentionSettings
) -> Tensor:
    """The phrase's log-odds `[h,w]` on the latent grid: mean over the finest layers, levels and noises."""
    text = predictor.encode_text([caption])
    group, valid = phrase_groups(text, phrase)
    latent = predictor.encode(view)
    random = torch.Generator().manual_seed(settings.seed)
    levels = [level for level in settings.levels for _ in range(settings.noise_samples)]
    progress, total = predictor.host.progress(len(levels), f"finding {phrase}"), None
    for done, level in enumerate(levels, 1):
        noise = torch.randn(latent.shape, generator=random).to(latent)
        with AttentionTap(predictor, groups=group, valid=valid) as tap:
            predictor.predict(predictor.add_noise(latent, noise, level), level, text)
        sample = tap.mean(size=(latent.shape[-2], latent.shape[-1]), layers=finest(tap.maps))[0, 0].float()
        total = sample if total is None else total + sample
        progress.update(done)
    if total is None:
        raise RegionStyleError("levels and noise_samples: got none, expected one or more of each. Use the defaults.")
    return total / len(levels)


def finest(maps: Mapping[str, Tensor]) -> list[str]:
    """The layers with the finest grid: coarser ones know what is there, these know where it ends."""
    most = max(m.shape[-2] * m.shape[-1] for m in maps.values())
    return [path for path, m in maps.items() if m.shape[-2] * m.shape[-1] == most]


def otsu(values: Tensor, bins: int = 128) -> float:
    """The threshold that splits values best into two classes (Otsu 1979: largest between-class variance)."""
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-6:
        return high
    counts = torch.histc(values.float().cpu(), bins, low, high)
    centers = torch.linspace(low, high, 2 * bins + 1)[1::2]
    weight = counts.cumsum(0)
    total, moment = weight[-1], (counts * centers).cumsum(0)
    between = (moment[-1] * weight / total - moment).square() / (weight * (total - weight)).clamp_min(1e-6)
    best = (between[:-1] >= between[:-1].max() * (1 - 1e-6)).nonzero().float()
    # an empty gap between the classes is a plateau of equally good thresholds: take its middle
    return low + (float(best.mean()) + 1) * (high - low) / bins


def threshold_of(logodds: Tensor) -> float:
    """The log-odds above which a place belongs to the phrase: Otsu's threshold on probabilities.

    A network whose attention was supervised gives probabilities near 0 and 1, and the threshold lies between; one
    that was not gives a narrow range, where probabilities are as good as the log-odds themselves.
    """
    if logodds not in _thresholds:
        share = min(max(otsu(logodds.sigmoid()), 1e-4), 1 - 1e-4)
        _thresholds[logodds] = math.log(share / (1 - share))
    return _thresholds[logodds]


# Every map is compared with those of all other things, and is not changed: one threshold each, for as long as it lives.
_thresholds: MutableMapping[Tensor, float] = WeakIdKeyDictionary()


def mask_from_logodds(logodds: Tensor, settings: AttentionSettings, competing_maps: Sequence[Tensor] = ()) -> Grounding:
    """The soft mask of a map: a sigmoid around the threshold, cleared where it is below 2 percent.

    competing_maps: maps of other things `[H,W]`. A place belongs to the map that lies highest above its own threshold
    there; thresholds are what makes maps comparable, since some words draw more attention than others. Not found (mask
    of zeros) when inside and outside differ by less than `settings.smallest`.
    """
    margin = _margin(logodds, settings, competing_maps)
    inside = margin > 0
    contrast = float(logodds[inside].mean() - logodds[~inside].mean()) if inside.any() and not inside.all() else 0.0
    if contrast < settings.smallest:
        return Grounding(logodds, torch.zeros_like(logodds), 0.0, False)
    mask = (margin / settings.softness * 4).sigmoid()
    mask = _similar_components(
        torch.where(mask < 0.02, torch.zeros_like(mask), mask), logodds, settings.component_tolerance
    )
    return Grounding(logodds, mask, float(logodds[mask > 0.5].sigmoid().mean()), True)


def _margin(logodds: Tensor, settings: AttentionSettings, competing_maps: Sequence[Tensor]) -> Tensor:
    """How far `[H,W]` a place lies above what it takes to belong to the thing, in log-odds."""
    above = logodds - threshold_of(logodds)
    lead = torch.full_like(above, math.inf)
    for other in competing_maps:
        lead = torch.minimum(lead, above - (other - threshold_of(other)).to(above))
    own = above[(above > 0) & (lead > 0)]
    # a high place that is no outlier: nine tenths of the thing lie below it
    strongest = float(own.kthvalue(max(1, round(0.9 * own.numel()))).values) if own.numel() else 0.0
    return torch.minimum(above - max(0.0, strongest - settings.peak_margin) - settings.bias, lead)


def _similar_components(mask: Tensor, logodds: Tensor, tolerance: float) -> Tensor:
    """The connected parts of a mask whose mean log-odds come near the best one's; specks count with the others."""
    parts = mask_parts(mask)
    if len(parts) < 2:
        return mask
    means = [float(logodds[part > 0.5].mean()) for part in parts]
    best = max(mean for mean, part in zip(means, parts, strict=True) if part.sum() >= 0.05 * parts[0].sum())
    kept = [part for mean, part in zip(means, parts, strict=True) if mean >= best - tolerance]
    return torch.stack(kept).amax(0)
