"""ComfyUI's VAE as an autoencoder whose decoder can be differentiated."""

from __future__ import annotations

from copy import copy
from typing import Any

from torch import Tensor


class VaeCoder:
    """Latents are the VAE's own. ComfyUI's `decode` switches gradients off, so the network is called here."""

    def __init__(self, vae: Any) -> None:
        self._vae, self.patcher = vae, vae.patcher
        ratio = getattr(vae, "downscale_ratio", 8)
        self.factor = ratio if isinstance(ratio, int) else 8

    def on(self, patcher: Any) -> VaeCoder:
        """With the network of another patcher."""
        vae = copy(self._vae)
        vae.patcher, vae.first_stage_model = patcher, patcher.model
        return VaeCoder(vae)

    def encode(self, images: Tensor) -> Tensor:
        """Latents `[B,C,h,w]` of images `[B,3,H,W]` in 0..1."""
        latents: Tensor = self._vae.encode(images.movedim(1, -1)).to(images.device)
        return latents.clone()

    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B,3,H,W]` in 0..1."""
        decoded = self._vae.first_stage_model.decode(latents.to(self._vae.vae_dtype))
        images: Tensor = self._vae.process_output(decoded).to(latents)
        return images.clamp(0, 1)
