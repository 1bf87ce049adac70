"""Noise that belongs to places of a picture: the same whatever the region, the tiles and the device."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 32  # latent cells; each block of a picture has a random stream of its own


def noise_at(corner: tuple[int, int], size: tuple[int, int], channels: int, seed: int) -> Tensor:
    """Normal noise `[1,channels,height,width]` of a rectangle of latent cells, its corner (row, column) not negative.

    Rectangles that overlap have the same noise in common.
    """
    result = torch.empty(1, channels, *size)
    (top, left), (height, width) = corner, size
    for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
        for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
            r0, r1 = max(top, row * BLOCK), min(top + height, (row + 1) * BLOCK)
            c0, c1 = max(left, column * BLOCK), min(left + width, (column + 1) * BLOCK)
            block = _block(channels, seed, row, column)
            part = block[:, r0 - row * BLOCK : r1 - row * BLOCK, c0 - column * BLOCK : c1 - column * BLOCK]
            result[0, :, r0 - top : r1 - top, c0 - left : c1 - left] = part
    return result


def _block(channels: int, seed: int, row: int, column: int) -> Tensor:
    import numpy as np

    drawn = np.random.default_rng([seed, row, column]).standard_normal((channels, BLOCK, BLOCK), dtype=np.float32)
    return torch.from_numpy(drawn)
