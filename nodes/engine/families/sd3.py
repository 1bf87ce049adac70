"""Stable Diffusion 3 and 3.5 (arXiv:2403.03206): a transformer with two streams, text and image, in every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..predictor.base import Text
from ..predictor.diffusers_text import encode_with, pooled_of
from .base import COMFY, FolderLayout, JointBlocks
from .comfy_sampling import flow_of
from .denoiser import FlowDenoiser, pooled_text
from .joint_names import IMAGE_QKV, TEXT_QKV, Fused, JointNames
from .joint_transformer import JointTransformer
from .layers import has_attributes
from .token_layout import TokenLayout, latent_size, patched

if TYPE_CHECKING:
    from ..predictor.schedule import Schedule

T5_LIMIT = 256  # tokens that diffusers' pipeline gives T5
# The text of the last block goes nowhere after its attention, so there it has only scale and shift.
_CONTEXT_MODULATION = "joint_blocks.{}.context_block.adaLN_modulation.1"
_WHOLE = {
    "joint_blocks.{}.x_block.attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "joint_blocks.{}.x_block.attn2.proj": "transformer_blocks.{}.attn2.to_out.0",
    "joint_blocks.{}.context_block.attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "joint_blocks.{}.x_block.mlp.fc1": "transformer_blocks.{}.ff.net.0.proj",
    "joint_blocks.{}.x_block.mlp.fc2": "transformer_blocks.{}.ff.net.2",
    "joint_blocks.{}.context_block.mlp.fc1": "transformer_blocks.{}.ff_context.net.0.proj",
    "joint_blocks.{}.context_block.mlp.fc2": "transformer_blocks.{}.ff_context.net.2",
    "joint_blocks.{}.x_block.adaLN_modulation.1": "transformer_blocks.{}.norm1.linear",
    _CONTEXT_MODULATION: "transformer_blocks.{}.norm1_context.linear",
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_FUSED = {
    "joint_blocks.{}.x_block.attn.qkv": Fused("transformer_blocks.{}.attn.", IMAGE_QKV),
    "joint_blocks.{}.x_block.attn2.qkv": Fused("transformer_blocks.{}.attn2.", IMAGE_QKV),
    "joint_blocks.{}.context_block.attn.qkv": Fused("transformer_blocks.{}.attn.", TEXT_QKV),
}


class StableDiffusion3(JointTransformer):
    """SD3 and SD3.5."""

    name, versions = "SD3", ("SD3", "SD3.5")
    diffusers_class, comfy_class = "SD3Transformer2DModel", "MMDiT"
    comfy_models = ("SD3",)
    # CLIP-L and CLIP-G share their positions; T5's tokens come after them.
    comfy_text = {("g", "l", "t5xxl"): ("l", "t5xxl")}
    folder = FolderLayout("transformer", encoders=3, table=False)
    isolates = (COMFY,)
    names = JointNames(_WHOLE, _FUSED, two_parts=_CONTEXT_MODULATION)
    diffusers_blocks = (JointBlocks("transformer_blocks", "transformer_blocks", heads_first=True, text_first=False),)
    comfy_blocks = (JointBlocks("joint_blocks", "transformer_blocks"),)

    def accepts(self, network: nn.Module) -> bool:
        """See `ModelFamily.accepts`."""
        ldm = has_attributes(network, "joint_blocks", "x_embedder", "context_embedder", "final_layer")
        return ldm or self.is_diffusers(network)

    def token_layout(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        """See `ModelFamily.token_layout`."""
        if "hidden_states" in arguments:
            patch, picture, text = network.config.patch_size, arguments["hidden_states"], "encoder_hidden_states"  # type: ignore[union-attr]
        else:
            patch, picture, text = network.patch_size, arguments["x"], "context"
        return TokenLayout((patched(latent_size(picture), int(patch)),), arguments[text].shape[1])  # type: ignore[arg-type]

    def denoiser(self, network: Any, scheduler: Any) -> FlowDenoiser:
        """See `ModelFamily.denoiser`."""
        return _Denoiser(self, network, scheduler)

    def encode_text(self, encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str]) -> Text:
        """CLIP-L and CLIP-G side by side, widened with zeros to T5's width; then T5's tokens."""
        first, second, t5 = encode_with("CLIP-L, CLIP-G and T5", encoders, tokenizers, texts, T5_LIMIT)
        clip = torch.cat([first.penultimate, second.penultimate], -1)
        clip = F.pad(clip, (0, t5.last.shape[-1] - clip.shape[-1]))
        return Text(
            torch.cat([clip, t5.last.to(clip)], 1),
            torch.cat([pooled_of(first), pooled_of(second)], -1),
            [a + b for a, b in zip(first.ids, t5.ids, strict=True)],
            [a + b for a, b in zip(first.pieces, t5.pieces, strict=True)],
            torch.cat([first.valid, t5.valid], 1),
            parts=(first.last.shape[1], t5.last.shape[1]),
        )

    def comfy_schedule(self, sampling: Any) -> tuple[Schedule, str] | None:
        """See `ModelFamily.comfy_schedule`."""
        from comfy.model_sampling import ModelSamplingDiscreteFlow

        return flow_of(sampling, ModelSamplingDiscreteFlow.sigma)


class _Denoiser(FlowDenoiser):
    def flow(self, x: Tensor, level: Tensor, text: Text, **shown: Tensor) -> Tensor:
        return self.network(
            hidden_states=x,
            timestep=level * 1000,
            encoder_hidden_states=text.states.to(x),
            pooled_projections=pooled_text(text, x),
        ).sample
