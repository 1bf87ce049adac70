"""Foreground masks of several shapes: discs, boxes, blobs, strokes, and parts of the picture itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = ("ellipse", "box", "blob", "stroke", "segment")
AREAS = (0.01, 0.45)  # share of the picture a drawn shape covers, before the frame cuts it


def drawn_mask(shape: str, size: int, random: torch.Generator) -> Tensor:
    """A shape of random place, area and direction, `[size,size]`, 0 or 1; areas are drawn evenly in their logarithm."""
    low, high = (math.log(area) for area in AREAS)
    area = math.exp(low + (high - low) * _uniform(random))
    y, x = _turned(size, random)
    radius = math.sqrt(area / math.pi) * 2  # of a disc of this area, in units of half the side
    stretch = math.exp((_uniform(random) - 0.5) * 1.2)
    if shape == "ellipse":
        return ((x / (radius * stretch)) ** 2 + (y * stretch / radius) ** 2 < 1).float()
    if shape == "box":
        half = math.sqrt(area)
        return ((x.abs() < half * stretch) & (y.abs() < half / stretch)).float()
    if shape == "stroke":
        bend = (_uniform(random) - 0.5) * 2
        half = math.sqrt(area)
        return ((x.abs() < 2 * half) & ((y - bend * x**2).abs() < half / 2)).float()
    return _blob(x, y, radius, random)


def _blob(x: Tensor, y: Tensor, radius: float, random: torch.Generator) -> Tensor:
    """A disc whose radius varies with the angle: five waves that get weaker."""
    angle = torch.atan2(y, x)
    edge = torch.ones_like(angle)
    for wave in range(1, 6):
        edge = edge + 0.45 / wave * (_uniform(random) * 2 - 1) * torch.cos(wave * angle + 6.283 * _uniform(random))
    return ((x**2 + y**2).sqrt() < radius * edge.clamp_min(0.2)).float()


def segment_mask(labels: Tensor, random: torch.Generator) -> Tensor:
    """One segment of a picture, now and then with a neighbour, `[H,W]` 0 or 1; zeros when none has a fitting area."""
    numbers, counts = labels.unique(return_counts=True)
    share = counts / labels.numel()
    fits = numbers[(share > 0.008) & (share < 0.5)]
    if not len(fits):
        return torch.zeros(labels.shape)
    mask = labels == fits[int(torch.randint(len(fits), (1,), generator=random))]
    if _uniform(random) < 0.5:
        beside = torch.nn.functional.max_pool2d(mask[None, None].float(), 5, 1, 2)[0, 0] > 0
        others = labels[beside & ~mask].unique()
        if len(others):
            joined = mask | (labels == others[int(torch.randint(len(others), (1,), generator=random))])
            mask = joined if joined.float().mean() < 0.6 else mask
    return mask.float()


def _turned(size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Coordinates y, x about a random centre, turned by a random angle; the picture's side is 2."""
    axis = torch.linspace(-1, 1, size)
    y, x = axis[:, None] - (_uniform(random) * 1.5 - 0.75), axis[None] - (_uniform(random) * 1.5 - 0.75)
    angle = math.pi * _uniform(random)
    return math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x


def _uniform(random: torch.Generator) -> float:
    return float(torch.rand(1, generator=random))
