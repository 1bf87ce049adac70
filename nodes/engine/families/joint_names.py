"""Names of layers in transformers with text and image in one sequence: diffusers' paths and the original code's.

The original code, which ComfyUI has kept ("ldm" names here), computes several of diffusers' layers at once: queries,
keys and values, in some blocks the first layer of the feed-forward too. Such a layer is addressed by output rows. Some
modulations have scale and shift in the other order. All follows from a layer's name and size, so one table serves the
modules of a network and the layers of a LoRA file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .dotted_names import dotted, name_pattern
from .layers import LayerSlice

IMAGE_QKV, TEXT_QKV = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
# Modulations of nothing but scale and shift: diffusers has the scale first.
LAST_MODULATION = "final_layer.adaLN_modulation.1"

# diffusers' names in any of these transformers.
_OWN = re.compile(
    r"(?:single_)?transformer_blocks\.\d+\..+|x_embedder|context_embedder|pos_embed\.proj|proj_out|norm_out\.linear"
    r"|time_text_embed\.(?:timestep|guidance|text)_embedder\.linear_[12]"
)
_OWN_ROOTS = {"transformer_blocks", "single_transformer_blocks", "x_embedder", "context_embedder", "pos_embed",
              "proj_out", "norm_out", "time_text_embed"}  # fmt: skip
_OWN_WORDS = """
    transformer_blocks single_transformer_blocks attn attn2 to_q to_k to_v to_out add_q_proj add_k_proj add_v_proj
    to_add_out ff ff_context net proj proj_mlp proj_out norm norm1 norm1_context norm_out linear x_embedder
    context_embedder pos_embed time_text_embed timestep_embedder guidance_embedder text_embedder linear_1 linear_2
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Fused:
    """A layer that computes several: names below `prefix`, each as wide as the input, and a path for the other rows."""

    prefix: str
    names: tuple[str, ...]
    rest: str | None = None


@dataclass(frozen=True)
class JointNames:
    """The names of one family; {} stands for the number of a block.

    whole: ldm name -> path; fused: ldm name -> what it computes; two_parts: an ldm name of `whole` whose halves are
    exchanged where it is two inputs wide only.
    """

    whole: Mapping[str, str]
    fused: Mapping[str, Fused]
    two_parts: str | None = None
    _pattern: re.Pattern[str] = field(init=False, repr=False)
    _roots: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ldm = [*self.whole, *self.fused, LAST_MODULATION]
        words = {word for name in ldm for word in name.split(".")} - {"{}"} | set(_OWN_WORDS)
        object.__setattr__(self, "_pattern", name_pattern({word for word in words if not word.isdigit()}))
        object.__setattr__(self, "_roots", frozenset(name.split(".")[0] for name in ldm) | _OWN_ROOTS)

    def with_dots(self, underscored: str) -> str | None:
        """The dotted form of a name written with underscores, ldm or diffusers; None for names of other networks."""
        name = dotted(underscored, self._pattern)
        return name if name and name.split(".")[0] in self._roots else None

    def slices(self, name: str, inputs: int, outputs: int) -> list[LayerSlice]:
        """diffusers' layers in the layer `name` (ldm or diffusers) of this size; empty for names without one."""
        number = re.search(r"\.(\d+)\.", name)
        block = number[1] if number and name.split(".")[0].endswith("blocks") else ""
        pattern = name.replace(f".{block}.", ".{}.", 1) if block else name
        if pattern in self.fused:
            return _fused_slices(name, self.fused[pattern], block, inputs, outputs)
        if pattern == LAST_MODULATION:
            return [LayerSlice(name, "norm_out.linear", swapped=True)]
        if pattern in self.whole:
            swapped = pattern == self.two_parts and outputs == 2 * inputs
            return [LayerSlice(name, self.whole[pattern].format(block), swapped=swapped)]
        return [LayerSlice(name, name)] if _OWN.fullmatch(name) else []


def token_kind(path: str) -> str:
    """What the rows of a layer's input are: "image", "text", "joint" (text, then image) or "none"."""
    if ".norm" in path or path.startswith(("norm_out", "time_text_embed")):
        return "none"
    if path.startswith("single_transformer_blocks"):
        return "joint"
    text = path == "context_embedder" or re.search(r"\.(?:add_[qkv]_proj|to_add_out|ff_context)(?:\.|$)", path)
    return "text" if text else "image"


def _fused_slices(name: str, fused: Fused, block: str, inputs: int, outputs: int) -> list[LayerSlice]:
    """The layers in a fused one; empty where the size is not that of these layers together."""
    slices = [
        LayerSlice(name, (fused.prefix + part).format(block), slice(index * inputs, (index + 1) * inputs))
        for index, part in enumerate(fused.names)
    ]
    expected = len(slices) * inputs
    if fused.rest is None:
        return slices if outputs == expected else []
    rest = LayerSlice(name, fused.rest.format(block), slice(expected, outputs))
    return [*slices, rest] if outputs > expected else []
