"""R2R's three stages (arXiv:2508.09746): what each trains, on which loss, from which frozen networks.

Clear-VAE: decoder and filters, on reconstructions of the real picture with the composite's detail. U-Net: the noise of
the real picture's latent inside the mask. Harmony Controller: the same, with the U-Net frozen.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from ..r2r.architecture import SCALING
from ..r2r.controller import Residuals
from ..r2r.hint import resized_mask
from ..r2r.losses import CONTRAST, Features, draw_timesteps, foreground_noise_loss, reconstruction_loss
from ..r2r.networks import R2RNetworks
from ..r2r.pipeline import predicted_noise
from ..r2r.schedule import alphas_cumprod
from .examples import Example


class TrainingStage(Protocol):
    """name: "vae", "unet" or "controller"; networks: all that take part; trained: the one that learns."""

    name: str
    networks: R2RNetworks
    hint: bool

    @property
    def trained(self) -> nn.Module: ...

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser gets; everything else is frozen."""

    def loss(self, batch: Example, random: torch.Generator) -> Tensor:
        """Of one batch on the networks' device."""


class VaeStage:
    """The decoder and the filters. The encoder and the convolutions around the latent stay as they are."""

    name, hint = "vae", False

    def __init__(self, networks: R2RNetworks, features: Features, *, clear: bool = True, encoder: bool = False) -> None:
        """features: of the contrastive loss; clear: False trains the plain decoder, to compare with; encoder: it and
        the convolutions around the latent learn too, for an autoencoder from random weights."""
        self.networks, self.features, self.clear, self.encoder = networks, features, clear, encoder
        networks.frozen()
        vae = networks.vae
        vae.decoder.requires_grad_(True)
        vae.filters.requires_grad_(clear)
        for block in vae.decoder_blocks():
            block.skip_connect.requires_grad_(clear)
        for module in (vae.encoder, vae.quant_conv, vae.post_quant_conv):
            module.requires_grad_(encoder)
        networks.vae.decoder.train()  # only what its skip connections add is dropped at times

    @property
    def trained(self) -> nn.Module:
        return self.networks.vae

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.trained.parameters() if parameter.requires_grad]

    def loss(self, batch: Example, random: torch.Generator) -> Tensor:
        vae = self.networks.vae
        with torch.set_grad_enabled(self.encoder):
            latent = vae.encode(batch.real, features=False).posterior.sample(random)
            features = vae.encode(batch.composite).features if self.clear else None
        result = vae.decode(latent, features, folded=False)
        error, contrast = reconstruction_loss(self.features, result, batch.real, batch.composite, batch.mask)
        return error + CONTRAST * contrast


class _NoiseStage:
    """What both denoising stages share."""

    def __init__(self, networks: R2RNetworks) -> None:
        self.networks = networks
        networks.frozen()
        self._alphas = alphas_cumprod()

    def loss(self, batch: Example, random: torch.Generator) -> Tensor:
        with torch.no_grad():
            real = self._latent(batch.real, random)
            condition = self._latent(batch.composite, random)
        timesteps = draw_timesteps(len(real), random).to(real.device)
        noise = torch.randn(real.shape, generator=random).to(real)
        alpha = self._alphas.to(real.device)[timesteps][:, None, None, None]
        noisy = (alpha.sqrt() * real + (1 - alpha).sqrt() * noise).to(real.dtype)
        mask = resized_mask(batch.mask, (int(real.shape[-2]), int(real.shape[-1])))
        text = self.networks.empty_prompt.to(real).expand(len(real), -1, -1)
        control = self._control(batch, timesteps, text, mask)
        predicted = predicted_noise(
            self.networks.unet, torch.cat([noisy, mask, condition], 1), timesteps, text, control
        )  # fmt: skip
        return foreground_noise_loss(predicted.float(), noise, mask)

    def _latent(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        latent: Tensor = self.networks.vae.encode(pictures, features=False).posterior.sample(random)
        return latent.float() * SCALING

    def _control(self, batch: Example, timesteps: Tensor, text: Tensor, mask: Tensor) -> Residuals | None:
        return None


class UnetStage(_NoiseStage):
    """All of the U-Net."""

    name, hint = "unet", False

    def __init__(self, networks: R2RNetworks) -> None:
        super().__init__(networks)
        networks.unet.requires_grad_(True).train()

    @property
    def trained(self) -> nn.Module:
        unet: nn.Module = self.networks.unet
        return unet

    def parameters(self) -> list[nn.Parameter]:
        return list(self.trained.parameters())


class ControllerStage(_NoiseStage):
    """All of the controller but its unused first convolution."""

    name, hint = "controller", True

    def __init__(self, networks: R2RNetworks) -> None:
        super().__init__(networks)
        assert networks.controller is not None, "the controller's stage trains one"
        self._controller = networks.controller.requires_grad_(True).train()
        self._controller.conv_in.requires_grad_(False)
        if not self._controller.modulates:
            self._controller.PCCAs.requires_grad_(False)

    @property
    def trained(self) -> nn.Module:
        return self._controller

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self._controller.parameters() if parameter.requires_grad]

    def _control(self, batch: Example, timesteps: Tensor, text: Tensor, mask: Tensor) -> Residuals | None:
        assert batch.hint is not None, "this stage draws hints"
        embedded = self._controller.embed_hint(batch.hint)
        residuals: Residuals = self._controller(embedded, timesteps, text, mask)
        return residuals


def new_stage(name: str, networks: R2RNetworks, features: Features, *, from_nothing: bool = False) -> TrainingStage:
    """A stage by its name; from_nothing: the Clear-VAE's encoder learns too."""
    if name == "vae":
        return VaeStage(networks, features, encoder=from_nothing)
    return UnetStage(networks) if name == "unet" else ControllerStage(networks)
