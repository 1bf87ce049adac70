"""What networks for inpainting are told beside the words: where to redraw, and the picture without that place.

Their first layer takes the noisy latent, the mask and the masked picture's latent side by side (Stable Diffusion's
inpainting checkpoints: 4 + 1 + 4 channels).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import wrong_input
from ..host.memory import BatchSlice

GREY = 0.5  # of a masked place in the picture, 0 in the range of -1..1 that autoencoders see


@dataclass(frozen=True, eq=False)
class Inpainting:
    """mask `[P,1,h,w]` of 0 and 1, 1 = redraw; latents `[P,C,h,w]` of the masked pictures, P being 1 or the pictures
    of a batch, which may hold them several times, one block of pictures after the other."""

    mask: Tensor
    latents: Tensor

    def rows(self, batch: int, running: BatchSlice | None) -> Inpainting:
        """Of a batch of latents; running: the slice of the pictures that the batch is of (None: all of them).

        RegionStyleError for a batch that does not hold the pictures once or several times.
        """
        mask, latents = self.mask, self.latents
        if running is not None and len(mask) == running.total:
            mask, latents = mask[running.rows], latents[running.rows]
        if batch % len(mask):
            accepts = f"{len(mask)} pictures, or a multiple"
            raise wrong_input("latents", f"a batch of {batch}", accepts, "Predict for the pictures that are inpainted.")
        times = batch // len(mask)
        return Inpainting(mask.repeat(times, 1, 1, 1), latents.repeat(times, 1, 1, 1))

    def channels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mask and masked picture as the network sees them after its latent x."""
        return self.mask.to(x), self.latents.to(x)

    def part(self, running: BatchSlice | None) -> Inpainting:
        """The rows that run of a batch, while it is predicted in slices."""
        if running is None or len(self.mask) != running.total:
            return self
        return Inpainting(self.mask[running.rows], self.latents[running.rows])


def masked_pictures(images: Tensor, masks: Tensor) -> Tensor:
    """Pictures `[P,3,H,W]` in 0..1 that are grey where masks `[P,H,W]` say to redraw (0.5 and more)."""
    return torch.where(masks[:, None].to(images) >= 0.5, torch.full_like(images, GREY), images)


def latent_mask(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks `[P,H,W]` at a latent's size, `[P,1,h,w]`: 1 where `masked_pictures` hides a pixel of a cell, else 0."""
    return F.adaptive_max_pool2d((masks[:, None] >= 0.5).float(), size)
