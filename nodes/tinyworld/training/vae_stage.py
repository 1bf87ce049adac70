"""Stage `vae`: the autoencoder, on scenes, styled scenes and photographs.

It starts as the plainest codec of its layout: three latent channels hold the mean colour of each 8 x 8 block, the
decoder repeats it. That is worth 19 dB before the first step; training adds the rest, and the fourth channel.
Loss: L1 plus L2 on pixels, L1 on horizontal and vertical differences (keeps strokes and dots), and a light pull of
every latent channel to zero mean and unit variance, which the denoiser's schedule assumes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backgrounds import TRAIN_PHOTOS, photo_crop
from ..networks import new_vae
from ..styles import STYLES, apply_style
from ..world import SIZE
from .pool import Pool


def _crop(image: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    top, left = (8 * int(random.integers(0, (SIZE - side) // 8 + 1)) for _ in range(2))
    return image[top : top + side, left : left + side]


class PictureSampler:
    """Draws training pictures: a third plain scenes, half styled scenes, the rest bare photographs."""

    def __init__(self, pool: Pool, seed: int = 0) -> None:
        self.pool, self.seed = pool, seed

    def _one(self, random: np.random.Generator) -> np.ndarray:
        kind = random.random()
        if kind < 0.18:
            photos = list(TRAIN_PHOTOS.values())
            image = photo_crop(photos[int(random.integers(len(photos)))], SIZE, random)
        else:
            image = self.pool.images[int(random.integers(len(self.pool)))].astype(np.float32) / 255
        if kind > 0.5 or kind < 0.06:
            image = apply_style(image, str(random.choice(list(STYLES))))
        return image

    def batch(self, step: int, size: int, side: int = SIZE) -> Tensor:
        """Pictures `[size,3,side,side]` in -1..1; a function of the step, so a resumed run goes on with new ones.

        Crops start on multiples of 8 px, where the styles' patterns and the latent cells both start.
        """
        random = np.random.default_rng([self.seed, step])
        images = np.stack([_crop(self._one(random), side, random) for _ in range(size)])
        return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def reconstruction_loss(decoded: Tensor, truth: Tensor) -> Tensor:
    """L1 + 2 L2 + 0.5 L1 of differences; `[B,3,H,W]` in -1..1."""
    error = decoded - truth
    edges = sum((a - b).abs().mean() for a, b in zip(_differences(decoded), _differences(truth), strict=True))
    return error.abs().mean() + 2 * error.square().mean() + 0.5 * edges


def moments_loss(z: Tensor) -> Tensor:
    """Distance of each latent channel from zero mean and unit variance; z `[B,4,h,w]`."""
    deviation = z.std((0, 2, 3)) - 1
    return z.mean((0, 2, 3)).square().mean() + deviation.square().mean()


class VaeObjective(nn.Module):
    """Images `[B,3,H,W]` in -1..1 and noise `[B,4,H/8,W/8]` to the loss and the squared error.

    A little noise on the latent makes the decoder forgive what the denoiser leaves.
    """

    def __init__(self, vae: Any, noise: float = 0.05, moments: float = 0.05) -> None:
        super().__init__()
        self.vae, self.noise, self.moments = vae, noise, moments

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        z = self.vae.encode(images).latents
        decoded = self.vae.decode(z + self.noise * noise).sample
        loss = reconstruction_loss(decoded, images) + self.moments * moments_loss(z)
        return loss, (decoded.detach() - images).square().mean()


def count_and_side(step: int, size: int) -> tuple[int, int]:
    """How many pictures a step sees, and their side in pixels.

    Two steps of three see 64 px crops, four times as many: more different pictures for the same work. The third sees
    whole pictures, which the attention layer in the middle needs.
    """
    return (size, SIZE) if step % 3 == 0 else (4 * size, SIZE // 2)


def psnr_of_signed(error: Tensor) -> float:
    """PSNR in dB of a mean squared error between pictures in -1..1."""
    return float(-10 * (error / 4).log10())


class VaeLoss:
    """Draws batches and scores them; `self(step)` is what `Trainer` calls."""

    def __init__(self, modules: nn.ModuleDict, pool: Pool, size: int = 6) -> None:
        self.pictures, self.size = PictureSampler(pool), size
        self.objective = VaeObjective(modules["vae"])
        self.device = next(modules.parameters()).device

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        size, side = count_and_side(step, self.size)
        images = self.pictures.batch(step, size, side).to(self.device)
        noise = torch.randn(size, 4, side // 8, side // 8, device=self.device)
        loss, error = self.objective(images, noise)
        return loss, {"psnr": psnr_of_signed(error)}


class Nothing(nn.Module):
    """The inner branch of a residual block that is not trained: adds nothing, costs nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


# Blocks left as plain rectifiers: they work at 128 and 64 px, where time goes and the encoder needs least.
SKIPPED = ("encoder.layers.1", "encoder.layers.4", "encoder.layers.5", "decoder.layers.14")


def _carry_colour(conv: nn.Conv2d, taps: list[tuple[int, int]], gain: float = 1.0, shift: float = 0.0) -> None:
    """Let the first three channels pass through a 3x3 convolution as the mean of some taps, times gain plus shift."""
    conv.weight[:3] = 0
    for channel in range(3):
        for row, column in taps:
            conv.weight[channel, channel, row, column] = gain / len(taps)
    if conv.bias is not None:
        conv.bias[:3] = shift


@torch.no_grad()
def _start_as_block_means(vae: Any) -> None:
    """Block means of the colour in, block means out; all other channels keep a weaker random start."""
    here, quad = [(1, 1)], [(r, c) for r in (1, 2) for c in (1, 2)]
    for part in (vae.encoder.layers, vae.decoder.layers):
        convolutions = [m for m in part if isinstance(m, nn.Conv2d)]
        for block in part:
            if hasattr(block, "fuse"):
                block.conv[-1].weight.mul_(0.2)
                block.conv[-1].weight[:3], block.conv[-1].bias[:3] = 0, 0
        for conv in convolutions:
            _carry_colour(conv, quad if conv.stride == (2, 2) else here)
        convolutions[-1].weight[:, 3:] *= 0.3
    # colours 0..1 to latents of about unit variance, and back
    _carry_colour(vae.encoder.layers[-1], here, 4.0, -2.0)
    _carry_colour(vae.decoder.layers[0], here, 0.25, 0.5)


def build() -> nn.ModuleDict:
    """The trained modules of this stage."""
    vae = new_vae()
    _start_as_block_means(vae)
    for name in SKIPPED:
        vae.get_submodule(name).conv = Nothing()
    return nn.ModuleDict({"vae": vae})


def full_state(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """The autoencoder's weights with the skipped branches filled with zeros, which is what they computed."""
    state = {k: torch.zeros_like(v) if k.startswith(SKIPPED) else v for k, v in new_vae().state_dict().items()}
    return state | dict(modules["vae"].state_dict())
