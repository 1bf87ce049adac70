"""What a Clear-VAE that begins at random stands on: its own features, and a latent of the usual variance."""

from __future__ import annotations

import copy

import torch

from ...engine.host.base import Host
from ..r2r.architecture import SCALING
from ..r2r.clear_vae import ClearVae
from ..r2r.losses import Features
from .examples import joined, whole_example
from .pairs import Pairs


def encoder_features(vae: ClearVae) -> Features:
    """What the contrastive loss compares where neither VGG16 nor a classifier is at hand: the seventh feature of the
    frozen encoder, as it is now."""
    encoder = copy.deepcopy(vae).eval().requires_grad_(False)
    return Features(lambda pictures: encoder.encode(pictures).features[6], "the autoencoder's own features")


@torch.no_grad()
def unit_latents(vae: ClearVae, pairs: Pairs, side: int, host: Host) -> None:
    """Scale the latent so that times 0.18215 it has unit variance, as Stable Diffusion's: exact, in the two
    convolutions around it."""
    real = joined([whole_example(pair, side, hint=False) for pair in pairs.all[:16]]).real.to(host.device)
    factor = 1 / (SCALING * float(vae.encode(real, features=False).posterior.mean.std()))
    half = vae.quant_conv.out_channels // 2
    vae.quant_conv.weight[:half] *= factor
    vae.quant_conv.bias[:half] *= factor
    vae.quant_conv.bias[half:] += 2 * torch.tensor(factor).log()
    vae.post_quant_conv.weight /= factor
