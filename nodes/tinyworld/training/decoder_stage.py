"""Stage `decoder`: the autoencoder's second half, trained on while its latents stay as they are.

The denoiser and the experts were trained on the encoder's latents; a better decoder makes all their pictures sharper
and asks nothing of them. The first stage leaves out the decoder's block at full size, where training costs most;
here it joins in. Photographs are few, so they are also shown mirrored and with their colour channels exchanged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backgrounds import TRAIN_PHOTOS, photo_crop
from ..styles import STYLES, apply_style
from ..world import SIZE
from .pool import Pool
from .vae_stage import PictureSampler, count_and_side, psnr_of_signed, reconstruction_loss

LAST_BLOCK = "decoder.layers.14"
PHOTOS = 0.3  # share of pictures that are photographs


class VariedPictures(PictureSampler):
    """The autoencoder's pictures with more photographs, each in one of twelve ways."""

    def _one(self, random: np.random.Generator) -> np.ndarray:
        if random.random() >= PHOTOS:
            return super()._one(random)
        names = list(TRAIN_PHOTOS.values())
        image = photo_crop(names[int(random.integers(len(names)))], SIZE, random)[..., random.permutation(3)]
        image = image[:, ::-1] if random.random() < 0.5 else image
        styled = random.random() < 0.25
        return apply_style(image, str(random.choice(list(STYLES)))) if styled else np.ascontiguousarray(image)


@torch.no_grad()
def build(vae: Any) -> nn.ModuleDict:
    """The decoder as the trained module; its last block, where it is still empty, gets a start that adds nothing."""
    block = vae.get_submodule(LAST_BLOCK).conv
    convolutions = [part for part in block if isinstance(part, nn.Conv2d)]
    if not any(bool(conv.weight.any()) for conv in convolutions):
        for conv in convolutions[:-1]:
            conv.reset_parameters()
    vae.decoder.requires_grad_(True).train()
    return nn.ModuleDict({"decoder": vae.decoder})


class DecoderLoss:
    """Draws pictures, encodes them, frozen, and scores the decoder; `self(step)` is what `Trainer` calls."""

    def __init__(self, vae: Any, pool: Pool, size: int = 4, seed: int = 6, noise: float = 0.05) -> None:
        self.vae, self.pictures, self.size, self.noise = vae, VariedPictures(pool, seed), size, noise
        self.device = next(vae.parameters()).device

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        size, side = count_and_side(step, self.size)
        images = self.pictures.batch(step, size, side).float().to(self.device)
        with torch.no_grad():
            z = self.vae.encode(images).latents
        decoded = self.vae.decode(z + self.noise * torch.randn_like(z)).sample
        error = (decoded.detach() - images).square().mean()
        return reconstruction_loss(decoded, images), {"psnr": psnr_of_signed(error)}
