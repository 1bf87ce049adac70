"""Large pictures through the Clear-VAE in overlapping tiles: memory follows the tile's size, not the picture's.

Each tile is encoded and decoded by itself, with the composite's features of that tile, and tiles fade into each other.
Group normalisation then sees one tile instead of the whole picture, so results differ a little from one pass over all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .architecture import FACTOR, GRID

OVERLAP = 0.25  # of a tile's side, at least


def starts(length: int, tile: int, step: int) -> list[int]:
    """Where tiles begin so that they cover a length with an overlap, on multiples of `step`; one where it fits."""
    if length <= tile:
        return [0]
    stride = max(step, int(tile * (1 - OVERLAP)) // step * step)
    inner = range(0, length - tile, stride)
    return [*inner, length - tile]


def tiled(
    work: Callable[[slice, slice], Tensor], size: tuple[int, int], tile: int, *, factor: int = 1,
) -> Tensor:  # fmt: skip
    """work(rows, columns) -> `[B,C,h/factor,w/factor]` for every tile of a picture of a size, put together.

    size: height and width in pixels, multiples of 8; tile: its side in pixels, a multiple of 64; rows, columns: in
    pixels; factor: pixels per value of the result.
    """
    height, width = size
    places = [
        (slice(top, min(top + tile, height)), slice(left, min(left + tile, width)))
        for top in starts(height, tile, GRID)
        for left in starts(width, tile, GRID)
    ]
    if len(places) == 1:
        return work(*places[0])
    first = work(*places[0])
    total = first.new_zeros(*first.shape[:2], height // factor, width // factor)
    weights = first.new_zeros(1, 1, height // factor, width // factor, dtype=torch.float32)
    for number, (rows, columns) in enumerate(places):
        part = work(rows, columns) if number else first
        ramp = _ramp(part.shape[-2], part)[:, None] * _ramp(part.shape[-1], part)
        place = (..., _divided(rows, factor), _divided(columns, factor))
        total[place] += part * ramp.to(part)
        weights[place] += ramp
    return total / weights.to(total)


def latent_slice(pixels: slice) -> slice:
    """A slice of pixels as one of latents."""
    return _divided(pixels, FACTOR)


def _divided(pixels: slice, factor: int) -> slice:
    return slice(pixels.start // factor, pixels.stop // factor)


def _ramp(length: int, like: Tensor) -> Tensor:
    """Weights that rise from the border over the overlap's half and stay; never 0."""
    reach = max(1.0, length * OVERLAP)
    inside = torch.arange(length, device=like.device, dtype=torch.float32) + 0.5
    return (torch.minimum(inside, length - inside) / reach).clamp(max=1)
