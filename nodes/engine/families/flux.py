"""FLUX.1, dev (told a guidance scale), schnell (not) and Kontext (with reference pictures).

A transformer whose first blocks have two streams, text and image, and the later ones a single one, text first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import wrong_input
from ..predictor.base import Text
from ..predictor.diffusers_text import encode_with
from .base import BOTH_HOSTS, FolderLayout, JointBlocks
from .comfy_sampling import flow_of
from .denoiser import FlowDenoiser, pooled_text
from .joint_names import IMAGE_QKV, TEXT_QKV, Fused, JointNames
from .joint_transformer import JointTransformer
from .layers import has_attributes
from .token_grid import Size
from .token_layout import TokenLayout, latent_size, patched

if TYPE_CHECKING:
    from ..predictor.schedule import Schedule

GUIDANCE = 3.5  # what its pipelines give when nobody asks for another
T5_LIMIT = 512  # tokens that diffusers' pipeline gives T5
_WHOLE = {
    "double_blocks.{}.img_attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "double_blocks.{}.txt_attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "double_blocks.{}.img_mlp.0": "transformer_blocks.{}.ff.net.0.proj",
    "double_blocks.{}.img_mlp.2": "transformer_blocks.{}.ff.net.2",
    "double_blocks.{}.txt_mlp.0": "transformer_blocks.{}.ff_context.net.0.proj",
    "double_blocks.{}.txt_mlp.2": "transformer_blocks.{}.ff_context.net.2",
    "double_blocks.{}.img_mod.lin": "transformer_blocks.{}.norm1.linear",
    "double_blocks.{}.txt_mod.lin": "transformer_blocks.{}.norm1_context.linear",
    "single_blocks.{}.linear2": "single_transformer_blocks.{}.proj_out",
    "single_blocks.{}.modulation.lin": "single_transformer_blocks.{}.norm.linear",
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
_SINGLE = "single_transformer_blocks.{}."
_FUSED = {
    "double_blocks.{}.img_attn.qkv": Fused("transformer_blocks.{}.attn.", IMAGE_QKV),
    "double_blocks.{}.txt_attn.qkv": Fused("transformer_blocks.{}.attn.", TEXT_QKV),
    "single_blocks.{}.linear1_qkv": Fused(_SINGLE + "attn.", IMAGE_QKV),  # in files only
    "single_blocks.{}.linear1": Fused(_SINGLE + "attn.", IMAGE_QKV, _SINGLE + "proj_mlp"),
}
# XLabs' names in LoRA files: what inside a block, and which stream of a double block (1: image, 2: text).
_XLABS = re.compile(r"((?:double|single)_blocks\.\d+)\.processor\.(qkv|proj)_lora([12]?)")
_XLABS_NAMES = {
    ("qkv", "1"): "img_attn.qkv",
    ("proj", "1"): "img_attn.proj",
    ("qkv", "2"): "txt_attn.qkv",
    ("proj", "2"): "txt_attn.proj",
    ("qkv", ""): "linear1_qkv",
    ("proj", ""): "linear2",
}


class Flux(JointTransformer):
    """FLUX.1 and its Kontext."""

    name, versions = "FLUX", ("FLUX.1",)
    diffusers_class, comfy_class = "FluxTransformer2DModel", "Flux"
    comfy_models = ("Flux",)
    comfy_text = {("l", "t5xxl"): ("t5xxl",)}  # of CLIP-L only the pooled output is used
    folder = FolderLayout("transformer", encoders=2, table=False, guided=False)
    references = BOTH_HOSTS
    names = JointNames(_WHOLE, _FUSED)
    diffusers_blocks = (
        JointBlocks("transformer_blocks", "transformer_blocks"),
        JointBlocks("single_transformer_blocks", "single_transformer_blocks"),
    )
    comfy_blocks = (
        JointBlocks("double_blocks", "transformer_blocks"),
        JointBlocks("single_blocks", "single_transformer_blocks"),
    )

    def accepts(self, network: nn.Module) -> bool:
        """See `ModelFamily.accepts`. FLUX.2 and others use ComfyUI's class too, with other layers."""
        params = getattr(network, "params", None)
        other = any(getattr(params, name, False) for name in ("global_modulation", "mlp_silu_act", "yak_mlp"))
        ldm = type(network).__name__ == self.comfy_class and has_attributes(network, "double_blocks", "single_blocks")
        return self.is_diffusers(network) or (ldm and not other)

    def masked_attentions(self, network: nn.Module) -> list[str]:
        """See `ModelFamily.masked_attentions`."""
        of_diffusers = re.compile(r"(?:single_)?transformer_blocks\.\d+\.attn")
        return [name for name, _ in network.named_modules() if of_diffusers.fullmatch(name)]

    def token_layout(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        """See `ModelFamily.token_layout`; the grids after the first are those of reference pictures."""
        if "hidden_states" in arguments:
            return TokenLayout(_grids_of_ids(arguments["img_ids"]), arguments["encoder_hidden_states"].shape[1])
        pictures = [arguments["x"], *(arguments.get("ref_latents") or [])]
        patch = int(network.patch_size)  # type: ignore[arg-type]
        grids = tuple(patched(latent_size(picture), patch) for picture in pictures)
        return TokenLayout(grids, arguments["context"].shape[1])

    def denoiser(self, network: Any, scheduler: Any) -> FlowDenoiser:
        """See `ModelFamily.denoiser`."""
        return _Denoiser(self, network, scheduler)

    def encode_text(self, encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str]) -> Text:
        """T5's tokens, and the pooled output of CLIP-L."""
        clip, t5 = encode_with("CLIP-L and T5", encoders, tokenizers, texts, T5_LIMIT)
        return Text(t5.last, clip.pooled, t5.ids, t5.pieces, t5.valid)

    def comfy_schedule(self, sampling: Any) -> tuple[Schedule, str] | None:
        """See `ModelFamily.comfy_schedule`."""
        from comfy.model_sampling import ModelSamplingFlux

        return flow_of(sampling, ModelSamplingFlux.sigma)

    def comfy_extras(self, model: Any) -> tuple[str, ...]:
        """See `ModelFamily.comfy_extras`: guidance where the network was distilled with it."""
        params = getattr(model.diffusion_model, "params", None)
        return ("guidance",) if getattr(params, "guidance_embed", True) else ()

    def usual_name(self, name: str) -> str:
        """See `ModelFamily.usual_name`: XLabs' names."""
        match = _XLABS.fullmatch(name)
        return f"{match[1]}.{_XLABS_NAMES[match[2], match[3]]}" if match else name


class _Denoiser(FlowDenoiser):
    def __init__(self, family: Flux, network: Any, scheduler: Any) -> None:
        super().__init__(family, network, scheduler)
        inputs, outputs = network.config.in_channels, network.config.out_channels
        if outputs is not None and outputs != inputs:
            got = f"{inputs} input channels for {outputs} output channels"
            raise wrong_input("unet", got, "text as the only condition", family.supported_denoiser())
        self.latent_channels = inputs // 4
        self.extras = ("guidance",) if network.config.guidance_embeds else ()

    def flow(self, x: Tensor, level: Tensor, text: Text, **shown: Tensor) -> Tensor:
        pictures = [x, *(latents.to(x) for latents in shown.values())]
        grids = [(picture.shape[-2] // 2, picture.shape[-1] // 2) for picture in pictures]
        (rows, columns), count = grids[0], grids[0][0] * grids[0][1]
        ids = torch.cat([_position_ids(*grid, number) for number, grid in enumerate(grids)])
        guidance = text.extras.guidance if text.extras.guidance is not None else GUIDANCE
        output = self.network(
            hidden_states=torch.cat([F.pixel_unshuffle(one, 2).flatten(2).transpose(1, 2) for one in pictures], 1),
            timestep=level,
            guidance=torch.full_like(level, guidance) if self.extras else None,
            encoder_hidden_states=text.states.to(x),
            pooled_projections=pooled_text(text, x),
            txt_ids=torch.zeros(text.states.shape[1], 3, device=x.device),
            img_ids=ids.to(x.device),
        ).sample[:, :count]
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), 2)


def _position_ids(rows: int, columns: int, picture: int) -> Tensor:
    """Position ids `[rows*columns,3]` of a picture's tokens: its number (0 is what is drawn), row, column."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 0] = picture
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return ids.flatten(0, 1)


def _grids_of_ids(ids: Tensor) -> tuple[Size, ...]:
    """Grids from position ids `[N,3]` or `[1,N,3]` (picture, row, column), one per picture, in their order."""
    ids = ids[0] if ids.ndim == 3 else ids
    _, counts = torch.unique_consecutive(ids[:, 0], return_counts=True)
    grids = []
    for picture in ids[:, 1:].split(counts.tolist()):
        height, width = (int(extent) + 1 for extent in picture.amax(0) - picture.amin(0))
        if height * width != len(picture):
            accepts = "one token per row and column of each picture"
            raise wrong_input("img_ids", f"{len(picture)} tokens on {height}x{width}", accepts, "Use whole pictures.")
        grids.append((height, width))
    return tuple(grids)
