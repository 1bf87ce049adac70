"""R2R's networks together, as a file or a training gives them and the sampler takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .architecture import SD, Architecture, new_unet
from .clear_vae import ClearVae
from .controller import HarmonyController, copied_from_unet

TEXT_LENGTH = 77


@dataclass(eq=False)
class R2RNetworks:
    """controller: None samples with the U-Net alone; empty_prompt `[1,77,width]`: the text of every picture."""

    vae: ClearVae
    unet: Any
    controller: HarmonyController | None
    empty_prompt: Tensor
    architecture: Architecture = SD

    def frozen(self) -> R2RNetworks:
        """All networks in evaluation mode, without gradients of their own."""
        for network in (self.vae, self.unet, self.controller):
            if network is not None:
                network.eval().requires_grad_(False)
        return self


def new_networks(architecture: Architecture, seed: int = 0) -> R2RNetworks:
    """Randomly initialised networks: the controller begins as the U-Net's encoder, and adds nothing at first."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae, unet = ClearVae(architecture), new_unet(architecture)
        controller = copied_from_unet(HarmonyController(architecture), unet)
        text = torch.randn(1, TEXT_LENGTH, architecture.text_width)
    return R2RNetworks(vae, unet, controller, text, architecture)
