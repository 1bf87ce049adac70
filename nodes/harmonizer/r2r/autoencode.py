"""The Clear-VAE at work on one picture of any size: whole, its encoding kept for the decoder, or in tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from .architecture import FACTOR
from .clear_vae import ClearVae, Encoding, _posterior
from .tiles import latent_slice, tiled

WHOLE_BYTES = 4 * 2**30  # what a pass over the whole picture may take when no tile is asked for
VALUES_PER_PIXEL = 1250  # alive at once at Stable Diffusion's size, the kept features included; a test counts them
AUTOMATIC_TILE = 512


def tile_for(size: tuple[int, int], asked: int, dtype: torch.dtype) -> int:
    """The side of a tile in pixels, for a picture's size: as asked for, or (0) by the memory that all of it takes."""
    if asked:
        return asked
    needed = size[0] * size[1] * VALUES_PER_PIXEL * dtype.itemsize
    whole = -(-max(size) // 64) * 64
    return whole if needed <= WHOLE_BYTES else min(AUTOMATIC_TILE, whole)


class Autoencoding:
    """One composite `[1,3,H,W]` in -1..1, on the network's device, encoded at once.

    In tiles the features are not kept, since they are what takes the memory: each tile is encoded again as it is
    decoded.
    """

    def __init__(self, vae: ClearVae, composite: Tensor, tile: int, *, clear: bool = True) -> None:
        self._vae, self._clear, self._tile = vae, clear, tile
        self._composite = composite.to(next(vae.parameters()).dtype)
        self.size = (int(composite.shape[-2]), int(composite.shape[-1]))
        self._kept: Encoding | None = None
        if max(self.size) <= tile:
            self._kept = vae.encode(self._composite, features=clear)
            self.posterior = self._kept.posterior
        else:
            self.posterior = _posterior(tiled(self._moments, self.size, tile, factor=FACTOR))

    def _moments(self, rows: slice, columns: slice) -> Tensor:
        moments: Tensor = self._vae.encode(self._composite[..., rows, columns], features=False).posterior.parameters
        return moments

    def decode(self, latent: Tensor) -> Tensor:
        """The picture of a latent `[1,4,H/8,W/8]`, not scaled, with the composite's detail; once per object."""
        latent = latent.to(self._composite.dtype)
        if self._kept is not None:
            return self._vae.decode(latent, self._kept.features if self._clear else None)
        return tiled(lambda rows, columns: self._tile_of(latent, rows, columns), self.size, self._tile)

    def _tile_of(self, latent: Tensor, rows: slice, columns: slice) -> Tensor:
        part = latent[..., latent_slice(rows), latent_slice(columns)]
        features = self._vae.encode(self._composite[..., rows, columns]).features if self._clear else None
        return self._vae.decode(part, features)
