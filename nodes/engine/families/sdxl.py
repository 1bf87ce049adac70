"""SDXL (arXiv:2307.01952): a U-Net that is told pooled text and six sizes beside the words (2.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from ..predictor.base import Text
from ..predictor.diffusers_text import encode_with
from .base import FolderLayout
from .denoiser import Denoiser, pooled_text
from .stable_diffusion import UNetDenoiser, is_told_sizes
from .unet import UNet

SIZES = ("original", "crop", "target")  # of `Extras`


class StableDiffusionXL(UNet):
    """SDXL."""

    name, versions = "SDXL", ("SDXL",)
    comfy_models = ("SDXL",)
    # CLIP-L and CLIP-G share their positions; the refiner has CLIP-G alone.
    comfy_text = {("g",): ("g",), ("g", "l"): ("l",)}
    folder = FolderLayout("unet", encoders=2)

    def is_variant(self, network: nn.Module) -> bool:
        """See `UNet.is_variant`."""
        return is_told_sizes(network)

    def in_folder(self, config: Mapping[str, Any]) -> bool:
        """See `ModelFamily.in_folder`."""
        return super().in_folder(config) and config.get("addition_embed_type") == "text_time"

    def denoiser(self, network: Any, scheduler: Any) -> Denoiser:
        """See `ModelFamily.denoiser`."""
        return _Denoiser(self, network, scheduler)

    def encode_text(self, encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str]) -> Text:
        """The last but one states of CLIP-L and CLIP-G side by side, the pooled output of the second."""
        first, second = encode_with("CLIP-L and CLIP-G", encoders, tokenizers, texts)
        states = torch.cat([first.penultimate, second.penultimate], -1)
        return Text(states, second.pooled, first.ids, first.pieces, first.valid)

    def comfy_extras(self, model: Any) -> tuple[str, ...]:
        """See `ModelFamily.comfy_extras`."""
        return SIZES


class _Denoiser(UNetDenoiser):
    reads = "text_time"
    extras = SIZES

    def told(self, x: Tensor, text: Text) -> dict[str, Any]:
        pooled = pooled_text(text, x)
        width = self.config.projection_class_embeddings_input_dim - 6 * self.config.addition_time_embed_dim
        if pooled.shape[1] != width:
            accepts = f"[B, {width}] beside six sizes"
            raise wrong_input("text.pooled", list(pooled.shape), accepts, "Use the encoders this network was made for.")
        picture = (x.shape[-2] * self.family.latent_factor, x.shape[-1] * self.family.latent_factor)
        extras = text.extras
        original = extras.original or picture
        sizes = (*original, *(extras.crop or (0, 0)), *(extras.target or original))
        ids = torch.tensor([sizes], dtype=torch.float32, device=x.device).expand(len(x), -1)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
