"""Reading style experts from LoRA files of every layout in use (`keys.py`) and every container (`source.py`).

Layers are called as in diffusers from here on: layers that ComfyUI has fused are taken apart.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import wrong_input
from ..families.layers import LayerSlice
from ..families.registry import file_slices
from .expert import Expert, LoraLayer
from .keys import (
    ALPHA,
    DORA_SCALE,
    DOWN,
    MAGNITUDE,
    TEXT_ENCODER,
    UP,
    group_by_layer,
    known_layouts,
    left_out,
    refuse_other_kinds,
)  # fmt: skip
from .lycoris import as_lora
from .magnitude import Magnitude, dora_scale, magnitude_vector
from .source import read_lora


def load_expert(
    source: str | Path | Mapping[str, Tensor],
    *,
    name: str | None = None,
    network: nn.Module | None = None,
    ignore_text_encoder: bool = False,
) -> Expert:
    """Read an expert from a .safetensors file, a PEFT folder, or tensors by key (which are not copied).

    name: default the file's stem. network: what it was made for, needed only for files with ComfyUI's layer names
    and a network of another layout than the published ones. Tensors keep their dtype; without an alpha the scale is 1.

    LoHa and LoKr layers become LoRA layers of the same effect (`lycoris.py`), and DoRA's keep their magnitudes
    (`magnitude.py`); embeddings and norms in the file are left out, which the log says.

    RegionStyleError for a file that is missing or of another format, adapters of other kinds, keys that
    fit no layout (all are listed), and updates of the text encoder: experts act on the denoiser only. With
    `ignore_text_encoder=True` these are left out, reported in the log, and listed in the expert's `unused`.
    """
    tensors, metadata, config = read_lora(source)
    refuse_other_kinds(tensors)
    ignored = left_out(tensors)
    unused = tuple(key for key in tensors if TEXT_ENCODER.match(key))
    if unused and not ignore_text_encoder:
        got, accepts = f"{len(unused)} text encoder keys ({unused[0]}, ...)", "updates of the denoiser only"
        raise wrong_input("LoRA file", got, accepts, "To do without them, allow the text encoder to be ignored.")
    passed_over = {*unused, *ignored}
    grouped = group_by_layer(as_lora({key: tensor for key, tensor in tensors.items() if key not in passed_over}))
    layers = _diffusers_layers({name: _layer(name, roles, config) for name, roles in grouped.items()}, network)
    if config.get("use_dora") and layers and all(layer.magnitude is None for layer in layers.values()):
        got = "DoRA, by its configuration, without magnitudes"
        raise wrong_input("LoRA file", got, "keys that end in lora_magnitude_vector", "Download it again.")
    name = name or metadata.get("regionstyle_name") or (Path(source).stem if isinstance(source, str | Path) else "")
    if not layers or not name:
        got = "no LoRA layers" if not layers else "tensors without a name"
        raise wrong_input("LoRA file", got, known_layouts(), "Pass name=..." if layers else "Choose another file.")
    if unused:
        text = "expert %r: %d keys of its file act on the text encoder and are not used"
        logging.getLogger("regionstyle").warning(text, name, len(unused))
    if ignored:
        text = "expert %r: %d keys of its file (%s, ...) are embeddings or norms and are not used"
        logging.getLogger("regionstyle").warning(text, name, len(ignored), ignored[0])
    return Expert(name, layers, metadata.get("regionstyle_style", ""), metadata, (*unused, *ignored))


def _diffusers_layers(layers: Mapping[str, LoraLayer], network: nn.Module | None) -> dict[str, LoraLayer]:
    """The updates by diffusers path, those of fused layers taken apart."""
    slices = file_slices({name: (lora.down.shape[1], lora.up.shape[0]) for name, lora in layers.items()}, network)
    if lost := [name for name in layers if not slices[name]]:
        raise wrong_input("LoRA file", f"layers {lost}", "layers of this network", "Use an expert made for it.")
    return {piece.path: _cut(name, lora, piece) for name, lora in layers.items() for piece in slices[name]}


def _cut(name: str, layer: LoraLayer, piece: LayerSlice) -> LoraLayer:
    """The share of an update that one of diffusers' layers gets."""
    up = layer.up if piece.rows is None else layer.up[piece.rows]
    up = up.roll(len(up) // 2, 0) if piece.swapped else up
    magnitude = layer.magnitude and layer.magnitude.rows(piece.rows, piece.swapped, name)
    return LoraLayer(layer.down, up, layer.scale, magnitude=magnitude)


def _layer(name: str, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoraLayer:
    """The update of one layer from its tensors by role; without an alpha of its own PEFT's configuration scales it."""
    for role, tensor in tensors.items():
        _check_numbers(name, role, tensor)
    down, up, rank = tensors[DOWN], tensors[UP], tensors[DOWN].shape[0]
    magnitude = _magnitude(name, tensors)
    if ALPHA in tensors:
        return LoraLayer(down, up, float(tensors[ALPHA]) / rank, magnitude=magnitude)
    alpha = _by_pattern(name, config.get("alpha_pattern"), config.get("lora_alpha", rank))
    return LoraLayer(down, up, alpha / (rank**0.5 if config.get("use_rslora") else rank), magnitude=magnitude)


def _magnitude(name: str, tensors: Mapping[str, Tensor]) -> Magnitude | None:
    """What makes the layer a DoRA layer; None for one that is not."""
    if DORA_SCALE in tensors and MAGNITUDE in tensors:
        got = f"dora_scale and lora_magnitude_vector for {name}"
        raise wrong_input("LoRA file", got, "one of them", "Use another file; nothing was loaded.")
    if DORA_SCALE in tensors:
        return dora_scale(name, tensors[DORA_SCALE], len(tensors[UP]))
    return magnitude_vector(name, tensors[MAGNITUDE], len(tensors[UP])) if MAGNITUDE in tensors else None


def _check_numbers(name: str, role: str, tensor: Tensor) -> None:
    """RegionStyleError for what would end in a black picture, or is no LoRA: NaN, whole numbers, several alphas, and
    tensors without rows."""
    whole = role != ALPHA and not tensor.is_floating_point()
    dimensions = 1 if role in (DORA_SCALE, MAGNITUDE) else 2
    shapeless = tensor.numel() != 1 if role == ALPHA else tensor.ndim < dimensions or not tensor.numel()
    if whole or shapeless or not bool(tensor.float().isfinite().all()):
        got = f"{tensor.dtype} {list(tensor.shape)}" if whole or shapeless else "NaN or infinity"
        accepts = "one finite number" if role == ALPHA else "finite floating point numbers, with a rank of 1 or more"
        raise wrong_input(f"LoRA file, {role} of {name}", got, accepts, "Use another file; nothing was loaded.")


def _by_pattern(name: str, patterns: Mapping[str, Any] | None, default: float) -> float:
    """PEFT's rule for names: the first of the patterns holds that is a layer's name, or its end from a dot on.

    PEFT takes them for regular expressions. One from a stranger's file can run for ever, and what trainers write are
    names; RegionStyleError for anything else.
    """
    if not patterns:
        return default
    parts = name.split(".")
    ends = {".".join(parts[start:]) for start in range(len(parts))}
    return next((value for pattern, value in patterns.items() if _is_end(pattern, name, ends)), default)


def _is_end(pattern: str, name: str, ends: set[str]) -> bool:
    whole = pattern.startswith("^")
    literal = pattern.removeprefix("^").removesuffix("$").replace("\\.", ".")
    if not all(sign.isalnum() or sign in "._-" for sign in literal):
        accepts = "names of layers, or their ends"
        remedy = "Regular expressions are not read from files: write the layers out."
        raise wrong_input("LoRA file, alpha_pattern", repr(pattern), accepts, remedy)
    return literal == name if whole else literal in ends
