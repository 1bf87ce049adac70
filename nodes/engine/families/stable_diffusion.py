"""Stable Diffusion 1 and 2 (arXiv:2112.10752): a U-Net that reads the words of one CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from ..predictor.base import Text
from ..predictor.diffusers_text import encode_with
from ..predictor.schedule import Time, timestep_of
from .base import TRAINED, FolderLayout, ModelFamily
from .denoiser import Denoiser, trained_table
from .unet import UNet


class StableDiffusion(UNet):
    """SD1.5 and SD2."""

    name, versions = "SD1.5", ("SD1.5", "SD2")
    comfy_sizes = {"SD15": 512, "SD20": 512, "SD21UnclipL": 768, "SD21UnclipH": 768}
    native_size = 512
    comfy_text = {("l",): ("l",), ("h",): ("h",)}
    folder = FolderLayout("unet", encoders=1)
    tried = TRAINED

    def is_variant(self, network: nn.Module) -> bool:
        """See `UNet.is_variant`: every one that is not told sizes."""
        return not is_told_sizes(network)

    def in_folder(self, config: Mapping[str, Any]) -> bool:
        """See `ModelFamily.in_folder`."""
        return super().in_folder(config) and config.get("addition_embed_type") is None

    def denoiser(self, network: Any, scheduler: Any) -> Denoiser:
        """See `ModelFamily.denoiser`."""
        return UNetDenoiser(self, network, scheduler)

    def encode_text(self, encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str]) -> Text:
        """The last states of one CLIP."""
        (clip,) = encode_with("CLIP", encoders, tokenizers, texts)
        return Text(clip.last, clip.pooled, clip.ids, clip.pieces, clip.valid)


class UNetDenoiser(Denoiser):
    """A U-Net is asked at the nearest whole timestep, the only ones it was trained on and what ComfyUI does.

    reads: the `addition_embed_type` of its configuration that is served here.
    """

    reads: str | None = None

    def __init__(self, family: ModelFamily, network: Any, scheduler: Any) -> None:
        """RegionStyleError for other schedulers, and for a variant that needs more than this."""
        if not hasattr(network.config, "cross_attention_dim"):
            raise wrong_input("unet", f"{type(network).__name__}, without text", "text", family.supported_denoiser())
        super().__init__(family, network)
        self.schedule, self.predicts = trained_table(family, scheduler)
        config = self.config
        unserved = [name for name in ("class_embed_type", "encoder_hid_dim_type") if config.get(name)]
        told = config.get("addition_embed_type")
        unserved += [f"addition_embed_type {told}"] if told and told != self.reads else []
        # mask and masked picture after the latent: a checkpoint for inpainting
        self.inpaints = config.in_channels == 2 * config.out_channels + 1
        self.latent_channels = int(config.out_channels)
        if unserved or (config.in_channels != config.out_channels and not self.inpaints):
            channels = f"{config.in_channels} input channels for {config.out_channels} output channels"
            got = f"a network with {', '.join(unserved) or channels}"
            raise wrong_input("unet", got, "text as the only condition", family.supported_denoiser())

    def call(self, x: Tensor, t: Time, text: Text, **shown: Tensor) -> Tensor:
        """See `Denoiser.call`."""
        steps = timestep_of(t).round().to(x.device, torch.long).expand(len(x))
        return self.network(x, steps, encoder_hidden_states=text.states.to(x), **self.told(x, text)).sample

    def told(self, x: Tensor, text: Text) -> dict[str, Any]:
        """What the network is told beside the words, as arguments of its forward."""
        return {}


def is_told_sizes(network: nn.Module) -> bool:
    """Whether a U-Net reads pooled text and sizes beside the words.

    ComfyUI's of that kind have a second embedding and no attention at the largest resolution.
    """
    config = getattr(network, "config", None)
    if config is not None and hasattr(network, "down_blocks"):
        return config.get("addition_embed_type") == "text_time"
    blocks: Any = getattr(network, "input_blocks", None)
    return hasattr(network, "label_emb") and blocks is not None and len(blocks) > 1 and len(blocks[1]) == 1
