"""Crops of pairs as R2R is trained on them: flipped half of the time, at random places, with enough foreground."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..r2r.hint import edge_map, resized, resized_mask
from .pairs import Pair

AREA = (0.5, 1.0)  # of a crop, as a share of the picture
ASPECT = (3 / 4, 4 / 3)
TRIES = 5
FOREGROUND = 0.01  # of a crop, at least, if that is found


@dataclass(frozen=True)
class Example:
    """Crops of one size, a batch: composite and real `[B,3,s,s]` in -1..1, mask `[B,1,s,s]` 0 or 1, hint `[B,7,s,s]` or
    None."""

    composite: Tensor
    real: Tensor
    mask: Tensor
    hint: Tensor | None = None

    def to(self, device: torch.device) -> Example:
        hint = None if self.hint is None else self.hint.to(device)
        return Example(self.composite.to(device), self.real.to(device), self.mask.to(device), hint)


def joined(examples: list[Example]) -> Example:
    """Examples as one batch."""
    hints = [example.hint for example in examples if example.hint is not None]
    return Example(
        torch.cat([example.composite for example in examples]),
        torch.cat([example.real for example in examples]),
        torch.cat([example.mask for example in examples]),
        torch.cat(hints) if hints else None,
    )


def draw_example(pair: Pair, side: int, random: torch.Generator, *, hint: bool) -> Example:
    """A random crop. The edges of the hint are drawn at the picture's own size, after the flip and before the crop."""
    composite, mask, real = pair.read()
    if float(torch.rand((), generator=random)) < 0.5:
        composite, mask, real = composite.flip(-1), mask.flip(-1), real.flip(-1)
    edges = edge_map(composite, mask) if hint else None
    return _cut(composite, mask, real, edges, draw_window(mask, random), side)


def whole_example(pair: Pair, side: int, *, hint: bool) -> Example:
    """The whole picture, squashed into a square; for validation."""
    composite, mask, real = pair.read()
    edges = edge_map(composite, mask) if hint else None
    return _cut(composite, mask, real, edges, (0, 0, *composite.shape[-2:]), side)


def draw_window(mask: Tensor, random: torch.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width; drawn anew, five times in all, until the mask fills a hundredth of it."""
    window = (0, 0, int(mask.shape[-2]), int(mask.shape[-1]))
    for _ in range(TRIES):
        top, left, height, width = window = _window(int(mask.shape[-2]), int(mask.shape[-1]), random)
        if float(mask[..., top : top + height, left : left + width].mean()) >= FOREGROUND:
            break
    return window


def _window(height: int, width: int, random: torch.Generator) -> tuple[int, int, int, int]:
    """A crop of random area and aspect, which is drawn evenly on a logarithmic scale; the whole where none fits."""
    for _ in range(10):
        share, shape, down, across = torch.rand(4, generator=random, dtype=torch.float64).tolist()
        area = height * width * (AREA[0] + share * (AREA[1] - AREA[0]))
        aspect = math.exp(math.log(ASPECT[0]) + shape * math.log(ASPECT[1] / ASPECT[0]))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(down * (height - tall + 1)), int(across * (width - wide + 1)), tall, wide
    return 0, 0, height, width


def _cut(
    composite: Tensor, mask: Tensor, real: Tensor, edges: Tensor | None, window: tuple[int, int, int, int], side: int
) -> Example:
    top, left, height, width = window
    place, size = (..., slice(top, top + height), slice(left, left + width)), (side, side)
    comp, truth = (resized(picture[place], size) * 2 - 1 for picture in (composite, real))
    inside = resized_mask(mask[place], size)
    if edges is None:
        return Example(comp, truth, inside)
    return Example(comp, truth, inside, torch.cat([resized(edges[place], size) * 2 - 1, comp, inside], 1))
