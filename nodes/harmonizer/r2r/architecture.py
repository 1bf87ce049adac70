"""Sizes of R2R's networks, and their diffusers building blocks: Stable Diffusion 1.x's, with nine input channels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...engine.errors import wrong_input

if TYPE_CHECKING:
    from torch import nn

LATENT_CHANNELS = 4
UNET_CHANNELS = 2 * LATENT_CHANNELS + 1  # noisy latent, mask, latent of the composite, in this order
HINT_CHANNELS = 7  # edge map, composite, mask
FACTOR = 8  # pixels per latent
GRID = 64  # sides the networks halve without a remainder, in pixels; also the adaptive filter's smallest
SCALING = 0.18215


@dataclass(frozen=True)
class Architecture:
    """channels: per level, from the largest size; groups: of every GroupNorm; heads: of every attention.

    The four levels, two residual blocks each, and everything else are the same at every size.
    """

    vae: tuple[int, ...] = (128, 256, 512, 512)
    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    hint: tuple[int, ...] = (16, 32, 96, 256)
    text_width: int = 768
    heads: int = 8
    groups: int = 32

    def __post_init__(self) -> None:
        if not len(self.vae) == len(self.unet) == len(self.hint) == 4:
            got = f"{len(self.vae)}, {len(self.unet)} and {len(self.hint)} levels"
            raise wrong_input("architecture", got, "4 each", "R2R's networks have four levels.")
        if any(b not in (a, 2 * a) for a, b in pairwise(self.vae)):
            accepts = "levels as wide as the one before, or twice as wide"
            raise wrong_input("architecture", self.vae, accepts, "The decoder repeats features once.")


SD = Architecture()
# As many tensors as Stable Diffusion's, under the same names.
TINY = Architecture((16, 32, 64, 64), (32, 64, 128, 128), (8, 16, 24, 32), text_width=32, heads=2, groups=8)
SIZES = {"sd": SD, "tiny": TINY}


def size_named(name: str) -> Architecture:
    """RegionStyleError for a name that is none of `SIZES`."""
    if name not in SIZES:
        raise wrong_input("size", repr(name), " or ".join(SIZES), "Correct the name.")
    return SIZES[name]


def new_autoencoder(architecture: Architecture) -> Any:
    """A randomly initialised `AutoencoderKL`: images `[B,3,H,W]` in -1..1, latents `[B,4,H/8,W/8]`."""
    from diffusers import AutoencoderKL

    levels = len(architecture.vae)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.vae,
        layers_per_block=2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=architecture.groups,
        scaling_factor=SCALING,
    )


def new_unet(architecture: Architecture) -> nn.Module:
    """A randomly initialised inpainting `UNet2DConditionModel`: `[B,9,h,w]` -> noise `[B,4,h,w]`."""
    from diffusers import UNet2DConditionModel

    network: nn.Module = UNet2DConditionModel(
        in_channels=UNET_CHANNELS, out_channels=LATENT_CHANNELS, **_denoiser(architecture)
    )
    return network


def new_controlnet(architecture: Architecture) -> Any:
    """A randomly initialised `ControlNetModel` with seven hint channels; its output convolutions are zero."""
    from diffusers import ControlNetModel

    return ControlNetModel(
        in_channels=LATENT_CHANNELS,
        conditioning_channels=HINT_CHANNELS,
        conditioning_embedding_out_channels=architecture.hint,
        **_denoiser(architecture),
    )


def _denoiser(architecture: Architecture) -> dict[str, Any]:
    return {
        "block_out_channels": architecture.unet,
        "cross_attention_dim": architecture.text_width,
        "attention_head_dim": architecture.heads,  # diffusers reads this as the number of heads for SD1.x networks
        "norm_num_groups": architecture.groups,
        "layers_per_block": 2,
    }
