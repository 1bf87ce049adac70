"""Clear-VAE (R2R, arXiv:2508.09746): Stable Diffusion's autoencoder whose decoder sees the composite's fine detail.

Twelve features of the composite's encoding, each through an adaptive filter of its own, enter the twelve residual
blocks of the decoder, last first. The encoder, and so the latent, is Stable Diffusion 1.x's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.errors import wrong_input
from .adaptive_filter import AdaptiveFilter
from .architecture import FACTOR, GRID, SCALING, SD, Architecture, new_autoencoder
from .skip_block import SkipConnect, run_block


@dataclass(eq=False)
class Encoding:
    """posterior: diffusers' `DiagonalGaussianDistribution` of the latent, not scaled; features: the twelve, first one
    largest. Decoding empties the list: each feature is freed when its block has taken it in."""

    posterior: Any
    features: list[Tensor] = field(default_factory=list)


class ClearVae(nn.Module):
    """Images `[B,3,H,W]` in -1..1, H and W multiples of 8 and 64 or more; latents `[B,4,H/8,W/8]`, not scaled."""

    scaling_factor = SCALING

    def __init__(self, architecture: Architecture = SD) -> None:
        super().__init__()
        base = new_autoencoder(architecture)
        self.architecture = architecture
        self.encoder, self.decoder = base.encoder, base.decoder
        self.quant_conv, self.post_quant_conv = base.quant_conv, base.post_quant_conv
        for block in self.decoder_blocks():
            block.skip_connect = SkipConnect(block.conv1.in_channels, block.conv1.out_channels)
        self.filters = nn.ModuleList(AdaptiveFilter() for _ in self.decoder_blocks())

    def decoder_blocks(self) -> list[Any]:
        """The decoder's twelve residual blocks, in the order they run."""
        return [block for up in self.decoder.up_blocks for block in up.resnets]

    def encode(self, images: Tensor, *, features: bool = True) -> Encoding:
        """One pass of the encoder; features: whether to keep them."""
        _check_images(images)
        encoder, kept = self.encoder, []
        h = encoder.conv_in(images)
        kept.append(h)
        for down in encoder.down_blocks:
            for layer in [*down.resnets, *(down.downsamplers or [])]:
                h = layer(h, None) if layer in down.resnets else layer(h)
                kept.append(h)
            if not features:
                kept.clear()
        h = encoder.conv_out(F.silu(encoder.conv_norm_out(encoder.mid_block(h))))
        return Encoding(_posterior(self.quant_conv(h)), kept if features else [])

    def decode(self, latent: Tensor, features: list[Tensor] | None = None, *, folded: bool | None = None) -> Tensor:
        """Images of a latent, about -1..1. features: of the composite, taken out of the list as they are used; None:
        the plain autoencoder. folded: the exact shorter form (default: except while training)."""
        folded = not self.training if folded is None else folded
        waiting = self._checked(latent, features)
        x = self.decoder.mid_block(self.decoder.conv_in(self.post_quant_conv(latent)))
        for up in self.decoder.up_blocks:
            for block in up.resnets:
                filter: Any = self.filters[len(waiting) - 1]
                x = run_block(block, x, waiting, filter, folded=folded)
            for upsampler in up.upsamplers or []:
                x = upsampler(x)
        x = self.decoder.conv_norm_out(x)
        return self.decoder.conv_out(F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad)))

    def _checked(self, latent: Tensor, features: list[Tensor] | None) -> list[Tensor]:
        if features is None:
            return []
        if len(features) != len(self.filters):
            accepts = f"the {len(self.filters)} of one encoding"
            raise wrong_input("features", len(features), accepts, "Encode the composite again: decoding uses them up.")
        size = tuple(side * FACTOR for side in latent.shape[-2:])
        if tuple(features[0].shape[-2:]) != size or len(features[0]) != len(latent):
            got = f"latent {list(latent.shape)} and features of a picture {list(features[0].shape[-2:])}"
            raise wrong_input("latent", got, "a latent of the composite's size and batch", "Resize one of them.")
        return features


def _check_images(images: Tensor) -> None:
    height, width = images.shape[-2:]
    if images.ndim != 4 or images.shape[1] != 3 or height % FACTOR or width % FACTOR or min(height, width) < GRID:
        accepts = f"[B,3,H,W] with H and W multiples of {FACTOR}, {GRID} or more"
        raise wrong_input("images", list(images.shape), accepts, "Resize the picture.")


def _posterior(moments: Tensor) -> Any:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    return DiagonalGaussianDistribution(moments)
