"""Names of modules in joint-attention transformers (FLUX.1, SD3): diffusers' paths are the pack's own names.

ComfyUI and the original code ("ldm" names here) compute several of diffusers' layers at once: queries, keys and
values, and in FLUX's single blocks the first layer of the feed-forward too. Such a layer is addressed by output rows.
The last modulation has scale and shift in the other order. Both follow from a layer's name and size, so one function
serves the modules of a network and the layers of a LoRA file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .dotted_names import dotted, name_pattern


@dataclass(frozen=True)
class LayerSlice:
    """What a layer has to do with diffusers' layer at `path`.

    rows: the output rows that are that layer; None: all. swapped: the two halves of the output are in the other order.
    """

    path: str
    rows: slice | None = None
    swapped: bool = False


# ldm name without the block's number -> diffusers name. {}: number of the block.
_FLUX = {
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
_SD3 = {
    "joint_blocks.{}.x_block.attn.proj": "transformer_blocks.{}.attn.to_out.0",
    "joint_blocks.{}.x_block.attn2.proj": "transformer_blocks.{}.attn2.to_out.0",
    "joint_blocks.{}.context_block.attn.proj": "transformer_blocks.{}.attn.to_add_out",
    "joint_blocks.{}.x_block.mlp.fc1": "transformer_blocks.{}.ff.net.0.proj",
    "joint_blocks.{}.x_block.mlp.fc2": "transformer_blocks.{}.ff.net.2",
    "joint_blocks.{}.context_block.mlp.fc1": "transformer_blocks.{}.ff_context.net.0.proj",
    "joint_blocks.{}.context_block.mlp.fc2": "transformer_blocks.{}.ff_context.net.2",
    "joint_blocks.{}.x_block.adaLN_modulation.1": "transformer_blocks.{}.norm1.linear",
    "joint_blocks.{}.context_block.adaLN_modulation.1": "transformer_blocks.{}.norm1_context.linear",
    "x_embedder.proj": "pos_embed.proj",
    "context_embedder": "context_embedder",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
}
_WHOLE = _FLUX | _SD3
# Layers that compute several of diffusers' at once: the names of the first three, which are as wide as the input,
# and of what remains of the rows.
_IMAGE, _TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
_FUSED: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "double_blocks.{}.img_attn.qkv": ("transformer_blocks.{}.attn.", _IMAGE, None),
    "double_blocks.{}.txt_attn.qkv": ("transformer_blocks.{}.attn.", _TEXT, None),
    "single_blocks.{}.linear1_qkv": ("single_transformer_blocks.{}.attn.", _IMAGE, None),  # in files only
    "single_blocks.{}.linear1": ("single_transformer_blocks.{}.attn.", _IMAGE, "single_transformer_blocks.{}.proj_mlp"),
    "joint_blocks.{}.x_block.attn.qkv": ("transformer_blocks.{}.attn.", _IMAGE, None),
    "joint_blocks.{}.x_block.attn2.qkv": ("transformer_blocks.{}.attn2.", _IMAGE, None),
    "joint_blocks.{}.context_block.attn.qkv": ("transformer_blocks.{}.attn.", _TEXT, None),
}
# Modulations of nothing but scale and shift: diffusers has the scale first.
_LAST_MODULATION = "final_layer.adaLN_modulation.1"
_CONTEXT_MODULATION = "joint_blocks.{}.context_block.adaLN_modulation.1"

_OWN = re.compile(
    r"(?:single_)?transformer_blocks\.\d+\..+|x_embedder|context_embedder|pos_embed\.proj|proj_out|norm_out\.linear"
    r"|time_text_embed\.(?:timestep|guidance|text)_embedder\.linear_[12]"
)
_DIFFUSERS_WORDS = """
    transformer_blocks single_transformer_blocks attn attn2 to_q to_k to_v to_out add_q_proj add_k_proj add_v_proj
    to_add_out ff ff_context net proj proj_mlp proj_out norm norm1 norm1_context norm_out linear x_embedder
    context_embedder pos_embed time_text_embed timestep_embedder guidance_embedder text_embedder linear_1 linear_2
""".split()  # noqa: SIM905
_LDM_WORDS = {word for name in (*_WHOLE, *_FUSED, _LAST_MODULATION) for word in name.split(".")} - {"{}"}
_PATTERN = name_pattern({word for word in (*_DIFFUSERS_WORDS, *_LDM_WORDS) if not word.isdigit()})
_ROOTS = {name.split(".")[0] for name in (*_WHOLE, *_WHOLE.values(), *_FUSED, "single_transformer_blocks", "norm_out")}


def with_dots(name: str) -> str | None:
    """The dotted form of a name written with underscores, ldm or diffusers; None for names of other networks."""
    found = dotted(name, _PATTERN)
    return found if found and is_transformer_name(found) else None


def is_transformer_name(name: str) -> bool:
    """Whether a dotted name is that of a layer in these transformers."""
    return name.split(".")[0] in _ROOTS


def parts(name: str, inputs: int, outputs: int) -> list[LayerSlice]:
    """Diffusers' layers in the layer `name` (ldm or diffusers) of this size; empty for names without a counterpart."""
    number = re.search(r"\.(\d+)\.", name)
    block = number[1] if number and name.split(".")[0].endswith("blocks") else ""
    pattern = name.replace(f".{block}.", ".{}.", 1) if block else name
    if pattern in _FUSED:
        return _fused(*_FUSED[pattern], block, inputs, outputs)
    if pattern == _LAST_MODULATION:
        return [LayerSlice("norm_out.linear", swapped=True)]
    if pattern in _WHOLE:
        # The text of SD3's last block goes nowhere after its attention, so it has only scale and shift.
        swapped = pattern == _CONTEXT_MODULATION and outputs == 2 * inputs
        return [LayerSlice(_WHOLE[pattern].format(block), swapped=swapped)]
    return [LayerSlice(name)] if _OWN.fullmatch(name) else []


def _fused(
    prefix: str, names: tuple[str, ...], rest: str | None, block: str, inputs: int, outputs: int
) -> list[LayerSlice]:
    """Queries, keys and values, each as wide as the input, and the rest."""
    found = [
        LayerSlice((prefix + name).format(block), slice(at * inputs, (at + 1) * inputs))
        for at, name in enumerate(names)
    ]
    expected = len(names) * inputs
    if rest is None:
        return found if outputs == expected else []
    return [*found, LayerSlice(rest.format(block), slice(expected, outputs))] if outputs > expected else []


def rows_of(path: str) -> str:
    """What the rows of a layer (diffusers path) stand for: "image", "text", "joint" (text, then image) or "none"."""
    if ".norm" in path or path.startswith(("norm_out", "time_text_embed")):
        return "none"
    if path.startswith("single_transformer_blocks"):
        return "joint"
    text = path == "context_embedder" or re.search(r"\.(?:add_[qkv]_proj|to_add_out|ff_context)(?:\.|$)", path)
    return "text" if text else "image"
