"""Attention maps to look at: where a network attends to phrases, in which layers, at which noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.attention.supervision import AttentionTarget, LossSettings, Supervision
from ..engine.errors import wrong_input
from ..engine.families.base import ModelFamily
from ..engine.families.registry import family_of
from ..engine.io.heatmap import heat, overlay
from ..engine.predictor.base import NoisePredictor, Text
from ..engine.predictor.tokens import find_tokens, shown_tokens
from .guidance import StepRecord
from .settings import MapSettings

NAMED = ("useful", "all", "finest")


@dataclass(frozen=True, eq=False)
class PhraseMaps:
    """maps `[B,P,h,w]`, a row per picture and a column per phrase: log-odds, or shares in 0..1; layers: path and grid
    of every text attention, marked where it is one of those shown; tokens: the prompt's, with the phrases' marked."""

    maps: Tensor
    phrases: tuple[str, ...]
    layers: str
    tokens: str


def look(
    predictor: NoisePredictor, images: Tensor, prompt: str, phrases: Sequence[str], settings: MapSettings
) -> PhraseMaps:
    """Maps of phrases of a prompt over pictures `[B,3,H,W]` in 0..1, noised to a level and predicted once per draw.

    RegionStyleError for a phrase that the prompt does not have, and layers that the network does not have. Cancel is
    checked at every pass.
    """
    text = predictor.encode_text([prompt])
    supervision = phrase_supervision(text, phrases, settings.attention)
    latent, family = predictor.encode(images), family_of(predictor.network)
    rows = supervision.rows(len(latent))
    random = torch.Generator().manual_seed(settings.seed)
    progress, total, listed = predictor.host.progress(settings.draws, "looking at attention"), None, ""
    for draw in range(settings.draws):
        noise = torch.randn(latent.shape, generator=random).to(latent)
        x = predictor.add_noise(latent, noise, settings.level) if settings.level else latent
        with torch.no_grad(), rows.tap(predictor) as tap:
            predictor.predict(x, settings.level, text)
        chosen = chosen_layers(tap.maps, settings.layers, family, (latent.shape[-2], latent.shape[-1]))
        listed = _listed(tap.maps, chosen)
        seen = rows.of_phrases(tap.mean(layers=chosen).float())
        total = seen if total is None else total + seen
        progress.update(draw + 1)
    assert total is not None  # draws are 1 or more
    marked = {token for phrase in phrases for token in find_tokens(text, phrase)}
    return PhraseMaps((total / settings.draws).cpu(), tuple(phrases), listed, shown_tokens(text, marked))


def phrase_supervision(text: Text, phrases: Sequence[str], kind: str) -> Supervision:
    """Phrases that are looked at, each by itself: masks play no part."""
    if not phrases:
        raise wrong_input("phrases", "none", "one or more, a line each", "Type words of the prompt.")
    half = torch.tensor([[0.0, 1.0]])  # any mask with an inside and an outside
    targets = [AttentionTarget(phrase, tuple(find_tokens(text, phrase)), half) for phrase in phrases]
    return Supervision([targets], text.valid[:1].cpu(), LossSettings(kind))


def chosen_layers(maps: Mapping[str, Tensor], layers: str, family: ModelFamily, latent: tuple[int, int]) -> list[str]:
    """The layers that a setting means; RegionStyleError listing what there is for a name that is none."""
    grids = {path: (int(seen.shape[-2]), int(seen.shape[-1])) for path, seen in maps.items()}
    if layers == "all":
        return list(grids)
    if layers == "useful":
        return family.layout_layers(grids, latent)
    if layers == "finest":
        most = max(height * width for height, width in grids.values())
        return [path for path, (height, width) in grids.items() if height * width == most]
    chosen = [path for path in grids if layers.strip() and layers.strip() in path]
    if not chosen:
        accepts = f"one of {', '.join(NAMED)}, or a part of: {', '.join(grids)}"
        raise wrong_input("layers", repr(layers), accepts, "Choose one of these.")
    return chosen


def as_masks(maps: Tensor, kind: str) -> Tensor:
    """Maps `[...,h,w]` as masks in 0..1: log-odds as probabilities, shares stretched by each map's highest value."""
    if kind == "logodds":
        return maps.sigmoid()
    return maps / maps.flatten(-2).amax(-1).clamp_min(1e-12)[..., None, None]


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `[B,P,h,w]` at a picture's size."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def map_pictures(images: Tensor, maps: Tensor) -> Tensor:
    """Every map laid over its picture: images `[B,3,H,W]`, maps `[B,P,h,w]` -> `[B*P,3,H,W]`."""
    size = (images.shape[-2], images.shape[-1])
    pairs = [(image, one) for image, row in zip(images, resized(maps, size), strict=True) for one in row]
    return torch.cat([overlay(image[None], one) for image, one in pairs])


def step_strip(records: Sequence[StepRecord], side: int = 96, most: int = 6) -> Tensor:
    """How the attention of each phrase went over a run, `[3,H,W]` in 0..1: a row per phrase, steps left to right."""
    if not records:
        return torch.zeros(3, side, side)
    every = torch.linspace(0, len(records) - 1, min(most, len(records))).round().int().tolist()
    columns = []
    for number in every:
        maps = records[number].maps
        cells = [F.interpolate(heat(one), (side, side), mode="nearest")[0] for one in maps]
        columns.append(torch.cat(cells, 1))
    return torch.cat(columns, 2)


def step_lines(records: Sequence[StepRecord]) -> str:
    """The losses of a run, a line per step."""
    return "\n".join(
        f"step {number}: focus {record.focus:.3f}, cover {record.cover:.3f}" for number, record in enumerate(records, 1)
    )


def _listed(maps: Mapping[str, Tensor], chosen: Sequence[str]) -> str:
    lines = [
        f"{path} ({seen.shape[-2]} x {seen.shape[-1]}){', shown' if path in chosen else ''}"
        for path, seen in maps.items()
    ]
    return "\n".join(lines)
