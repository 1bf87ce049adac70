"""Latents of Stable Diffusion 1.x decoded with the fine detail of a picture: the Clear-VAE by itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...engine.host.memory import with_halving
from .architecture import FACTOR, GRID, LATENT_CHANNELS
from .autoencode import Autoencoding, tile_for
from .clear_vae import ClearVae
from .settings import SMALLEST_TILE


@torch.no_grad()
def decode_with_detail(vae: ClearVae, latents: Tensor, pictures: Tensor, host: Host, *, tile: int = 0) -> Tensor:
    """Latents `[B,4,h,w]`, not scaled, with the detail of pictures `[B or 1,3,H,W]` in 0..1: `[B,3,8h,8w]` in 0..1, on
    the CPU.

    A picture whose sides are no multiples of 8 loses the pixels around its middle that encoding it has lost. tile: as
    in `R2RSettings`. RegionStyleError for other latents, and for pictures of another size or number.
    """
    pictures = _fitting(latents, pictures)
    results = []
    for index, latent in enumerate(latents):
        picture = pictures[index if len(pictures) > 1 else 0][None]
        results.append(_decoded(vae, latent[None], picture, host, tile))
    return torch.cat(results)


def _decoded(vae: ClearVae, latent: Tensor, picture: Tensor, host: Host, tile: int) -> Tensor:
    size = (int(picture.shape[-2]), int(picture.shape[-1]))
    first = tile_for(size, tile, next(vae.parameters()).dtype)

    def work(side: int) -> Tensor:
        host.load(vae)
        coded = Autoencoding(vae, picture.to(host.device) * 2 - 1, side)
        return (coded.decode(latent.to(host.device)).float() / 2 + 0.5).clamp(0, 1).cpu()

    smallest = min(SMALLEST_TILE, first)
    return with_halving(work, first, host=host, name="Clear-VAE", smallest=smallest, multiple=GRID)


def _fitting(latents: Tensor, pictures: Tensor) -> Tensor:
    """The pictures cut as their encoding was."""
    if latents.ndim != 4 or latents.shape[1] != LATENT_CHANNELS:
        accepts = f"[B,{LATENT_CHANNELS},h,w], of the Stable Diffusion 1.x class"
        raise wrong_input("latent", list(latents.shape), accepts, "Sample with a model of that class.")
    if len(pictures) not in (1, len(latents)):
        accepts = f"one picture or one per latent ({len(latents)})"
        raise wrong_input("image", f"{len(pictures)} pictures", accepts, "Repeat or select pictures.")
    height, width = (int(side) * FACTOR for side in latents.shape[-2:])
    tall, wide = pictures.shape[-2:]
    if not (height <= tall < height + FACTOR and width <= wide < width + FACTOR) or min(height, width) < GRID:
        accepts = f"{width} x {height}, the latent's size, and {GRID} pixels or more"
        raise wrong_input("image", f"{wide} x {tall} pixels", accepts, "Connect the picture the latent was made of.")
    top, left = (tall - height) // 2, (wide - width) // 2
    return pictures[..., top : top + height, left : left + width]
