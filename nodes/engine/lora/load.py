"""LoRA files of style experts: every layout in use for U-Nets and joint-attention transformers in, one of them out.

A key is prefix + layer + part. Layouts read:

- kohya: `lora_unet_<layer with underscores>.lora_down.weight`, the layer named as in ComfyUI or as in diffusers
  (`lora_transformer_...` and `lycoris_...` likewise);
- diffusers: `unet.<layer>.lora_A.weight`, `transformer.<layer>.lora_A.weight`, `unet.<layer>.lora.down.weight`,
  `unet.<attention>.processor.to_q_lora...`;
- XLabs, for FLUX.1: `double_blocks.0.processor.qkv_lora1.down.weight` (1: image, 2: text);
- PEFT: a folder with adapter_config.json, or `base_model.model.<layer>.lora_A.weight`;
- ComfyUI's own: `diffusion_model.<layer as in ComfyUI>.lora_up.weight`.

Layers are called as in diffusers from here on: layers that ComfyUI has fused are taken apart. Written is what ComfyUI's
own LoRA loader reads for that kind of network: kohya's layout for U-Nets, diffusers' for transformers.

To add a layout, read this file: how a part is written is in `_PART`, a prefix in `_PREFIX`, other ways to write a
layer's name in `_dotted`, and which of diffusers' layers a name stands for in `_layers_of`. Kinds of adapters that are
not a plain LoRA are refused by name (`_OTHER_KINDS`); one that is to be supported needs an update of its own beside
`linear_update` and `conv_update` in `adapter_layers.py`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from ..families import transformer_names, unet_names
from ..families.transformer_names import LayerSlice
from .expert import Expert, LoraLayer
from .source import HEADER_CONFIG, read_lora

_DOWN, _UP, _ALPHA = "down", "up", "alpha"
# The end of a key, for tensors of rank R; the name of a PEFT adapter may stand before ".weight".
_PART = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.(?:lora_down|lora_A(?:\.\w+)?|lora(?:_linear_layer)?\.down)\.weight(?P<down>)"
    r"|\.(?:lora_up|lora_B(?:\.\w+)?|lora(?:_linear_layer)?\.up)\.weight(?P<up>)"
    r"|(?:(?<=_lora)|(?<=_lora[12]))(?:\.down\.weight(?P<down2>)|\.up\.weight(?P<up2>))"
    r"|\.alpha(?P<alpha>))$"
)
_TEXT_ENCODER = re.compile(
    r"(?:base_model\.model\.)?(?:lora_te\d?_|text_encoders?(?:_\d)?\.|te\d?\.|clip_[lg]\.|t5xxl\.|text_model\.)"
)
_PREFIX = re.compile(r"^(?:(?:base_model\.model|unet|transformer|model|diffusion_model|lora_unet)\.)+")
_UNDERSCORED = re.compile(r"^(?:lora_unet|lora_transformer|lycoris)_")
# XLabs' names inside a block of FLUX.1: of what, and which stream of a double block.
_XLABS = re.compile(r"((?:double|single)_blocks\.\d+)\.processor\.(qkv|proj)_lora([12]?)")
_XLABS_NAMES = {
    ("qkv", "1"): "img_attn.qkv",
    ("proj", "1"): "img_attn.proj",
    ("qkv", "2"): "txt_attn.qkv",
    ("proj", "2"): "txt_attn.proj",
    ("qkv", ""): "linear1_qkv",
    ("proj", ""): "linear2",
}
_KINDS = "kohya, diffusers, PEFT or ComfyUI LoRA layers of a Stable Diffusion U-Net, of SD3 or of FLUX.1"
# What only adapters of another kind have in a key.
_OTHER_KINDS = {
    "DoRA": re.compile(r"\.(?:dora_scale|lora_magnitude_vector)"),
    "LoHa": re.compile(r"\.hada_"),
    "LoKr": re.compile(r"\.lokr_"),
    "LoCon with Tucker decomposition": re.compile(r"\.lora_mid\."),
    "OFT or BOFT": re.compile(r"\.(?:oft_|boft_)"),
    "GLoRA": re.compile(r"\.(?:a1|a2|b1|b2)\.weight$"),
}


def load_expert(
    source: str | Path | Mapping[str, Tensor],
    *,
    name: str | None = None,
    network: nn.Module | None = None,
    ignore_text_encoder: bool = False,
) -> Expert:
    """Read an expert from a .safetensors file, a PEFT folder, or tensors by key (which are not copied).

    name: default the file's stem. network: what it was made for, needed only for files with ComfyUI's layer names
    and a U-Net of another layout than SD1, SD2 and SDXL. Tensors keep their dtype; without an alpha the scale is 1.

    RegionStyleError for a file that is missing or of another format, adapters that are not a plain LoRA, keys that
    fit no layout (all are listed), and updates of the text encoder: experts act on the denoiser only. With
    `ignore_text_encoder=True` these are left out, reported in the log, and listed in the expert's `unused`.
    """
    tensors, metadata, config = read_lora(source)
    _refuse_other_kinds(tensors)
    unused = tuple(key for key in tensors if _TEXT_ENCODER.match(key))
    if unused and not ignore_text_encoder:
        got, accepts = f"{len(unused)} text encoder keys ({unused[0]}, ...)", "updates of the denoiser only"
        raise wrong_input("LoRA file", got, accepts, "To do without them, allow the text encoder to be ignored.")
    parts = _group({key: tensor for key, tensor in tensors.items() if key not in unused})
    layers = _diffusers_layers({layer: _layer(layer, found, config) for layer, found in parts.items()}, network)
    name = name or metadata.get("regionstyle_name") or (Path(source).stem if isinstance(source, str | Path) else "")
    if not layers or not name:
        got = "no LoRA layers" if not layers else "tensors without a name"
        raise wrong_input("LoRA file", got, _KINDS, "Pass name=..." if layers else "Choose another file.")
    if unused:
        text = "expert %r: %d keys of its file act on the text encoder and are not used"
        logging.getLogger("regionstyle").warning(text, name, len(unused))
    return Expert(name, layers, metadata.get("regionstyle_style", ""), metadata, unused)


def save_expert(expert: Expert, path: str | Path, *, layout: str | None = None) -> None:
    """Write an expert as a .safetensors file that ComfyUI's LoRA loader applies with the same effect.

    layout: "kohya" for U-Nets (with diffusers' layer names, which do not depend on the network's block numbers),
    "diffusers" for transformers; default: the one for this expert. "diffusers" is also written for U-Nets when it is
    asked for: diffusers, PEFT and this pack read it, ComfyUI's own loader passes over its keys without a word. Name,
    style and metadata are kept in the file's header. RegionStyleError for "kohya" with transformers, another suffix,
    or row slices.
    """
    from safetensors.torch import save_file

    path = Path(path)
    write = _layout(expert, layout)
    if path.suffix != ".safetensors":
        raise wrong_input("path", str(path), "a name ending in .safetensors", "Rename it.")
    if sliced := [layer for layer, lora in expert.layers.items() if lora.rows is not None]:
        raise wrong_input("expert", f"row slices in {sliced}", "whole layers", "This layout cannot hold them.")
    own = {"regionstyle_name": expert.name, "regionstyle_style": expert.style, "format": "pt"}
    # The configuration fixes the scale of the file that was read. In this one the tensors say it.
    kept = {key: text for key, text in expert.metadata.items() if key != HEADER_CONFIG}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(write(expert), path, metadata={**kept, **own})


def _layout(expert: Expert, layout: str | None) -> Callable[[Expert], dict[str, Tensor]]:
    transformer = all(transformer_names.is_transformer_name(path) for path in expert.layers)
    writers = {"diffusers": _diffusers} if transformer else {"kohya": _kohya, "diffusers": _diffusers_unet}
    if layout is not None and layout not in writers:
        accepts = " or ".join(map(repr, writers))
        raise wrong_input("layout", repr(layout), accepts, "The first is what ComfyUI reads for this kind of network.")
    return writers[layout] if layout else next(iter(writers.values()))


def _kohya(expert: Expert) -> dict[str, Tensor]:
    named = {"lora_unet_" + path.replace(".", "_"): layer for path, layer in expert.layers.items()}
    return _written(named, "lora_down.weight", "lora_up.weight")


def _diffusers(expert: Expert) -> dict[str, Tensor]:
    named = {"transformer." + path: layer for path, layer in expert.layers.items()}
    return _written(named, "lora_A.weight", "lora_B.weight")


def _diffusers_unet(expert: Expert) -> dict[str, Tensor]:
    """As `save_lora_weights` of diffusers writes it: no alpha, so a scale other than 1 goes into the up matrices."""
    tensors = {}
    for path, layer in expert.layers.items():
        tensors[f"unet.{path}.lora_A.weight"] = layer.down.detach().cpu().contiguous().clone()
        tensors[f"unet.{path}.lora_B.weight"] = (layer.up.detach() * layer.scale).cpu().contiguous().clone()
    return tensors


def _written(named: Mapping[str, LoraLayer], down: str, up: str) -> dict[str, Tensor]:
    tensors = {}
    for key, layer in named.items():
        tensors[f"{key}.{down}"] = layer.down.detach().cpu().contiguous().clone()
        tensors[f"{key}.{up}"] = layer.up.detach().cpu().contiguous().clone()
        tensors[f"{key}.alpha"] = torch.tensor(layer.scale * layer.rank)
    return tensors


def _refuse_other_kinds(tensors: Mapping[str, Tensor]) -> None:
    for kind, pattern in _OTHER_KINDS.items():
        found = [key for key in tensors if pattern.search(key)]
        if found:
            got = f"{kind} ({found[0]}, {len(found)} such keys)"
            raise wrong_input("LoRA file", got, "plain LoRA layers", "Use a LoRA; nothing was loaded.")


def _group(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer name as written, without prefix -> its tensors. RegionStyleError listing what fits nothing."""
    found: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _PART.match(key)
        layer = match and _dotted(match["layer"])
        if not match or not layer:
            unknown.append(key)
            continue
        part = next(name for name, group in match.groupdict().items() if name != "layer" and group is not None)
        if found.setdefault(layer, {}).setdefault(part.rstrip("2"), tensor) is not tensor:
            unknown.append(f"{key} (a second one for {layer})")
    incomplete = [layer for layer, parts in found.items() if not {_DOWN, _UP} <= set(parts)]
    if unknown or incomplete:
        shown = "\n  ".join([*unknown, *(f"{layer} (down or up missing)" for layer in incomplete)])
        got = f"{len(unknown) + len(incomplete)} keys that fit no layout:\n  {shown}\n"
        raise wrong_input("LoRA file", got, _KINDS, "Use another file; nothing was loaded.")
    return found


def _dotted(layer: str) -> str | None:
    """A layer's name with dots and without prefix, in diffusers' or ComfyUI's numbering; None for no known layer."""
    if underscored := _UNDERSCORED.sub("", layer) if _UNDERSCORED.match(layer) else None:
        return _known(underscored)
    layer = _PREFIX.sub("", layer)
    processor = re.fullmatch(r"(.+)\.processor\.(to_\w+?)_lora", layer)
    if processor:
        layer = f"{processor[1]}.{processor[2]}"
    if xlabs := _XLABS.fullmatch(layer):
        layer = f"{xlabs[1]}.{_XLABS_NAMES[xlabs[2], xlabs[3]]}"
    layer = layer + ".0" if layer.endswith(".to_out") else layer
    return layer if _known(layer.replace(".", "_")) == layer else None


def _known(underscored: str) -> str | None:
    """A layer's dotted name in a network of a known family."""
    return transformer_names.with_dots(underscored) or unet_names.with_dots(underscored)


def _diffusers_layers(layers: Mapping[str, LoraLayer], network: nn.Module | None) -> dict[str, LoraLayer]:
    """The updates by diffusers path, those of fused layers taken apart."""
    layers_of = _layers_of(layers, network)
    found: dict[str, LoraLayer] = {}
    lost = []
    for name, layer in layers.items():
        parts = layers_of(name, layer)
        lost += [] if parts else [name]
        found.update({part.path: _cut(layer, part) for part in parts})
    if lost:
        raise wrong_input("LoRA file", f"layers {lost}", "layers of this network", "Use an expert made for it.")
    return found


def _layers_of(
    layers: Mapping[str, LoraLayer], network: nn.Module | None
) -> Callable[[str, LoraLayer], list[LayerSlice]]:
    """The function (name in the file, update) -> diffusers' layers it acts on."""
    ldm = [name for name in layers if unet_names.is_ldm_name(name)]
    if not ldm:
        return _of_transformer_or_same
    counts = unet_names.guess_counts(ldm) if network is None else unet_names.counts_of_network(network)
    resnets = unet_names.table_lookup(counts)

    def of_unet(name: str, layer: LoraLayer) -> list[LayerSlice]:
        path = unet_names.to_diffusers(name, resnets) if unet_names.is_ldm_name(name) else name
        return [LayerSlice(path)] if path else []

    return of_unet


def _of_transformer_or_same(name: str, layer: LoraLayer) -> list[LayerSlice]:
    if not transformer_names.is_transformer_name(name):
        return [LayerSlice(name)]
    return transformer_names.parts(name, layer.down.shape[1], layer.up.shape[0])


def _cut(layer: LoraLayer, part: LayerSlice) -> LoraLayer:
    """The share of an update that one of diffusers' layers gets."""
    up = layer.up if part.rows is None else layer.up[part.rows]
    return LoraLayer(layer.down, up.roll(len(up) // 2, 0) if part.swapped else up, layer.scale)


def _layer(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoraLayer:
    down, up, rank = parts[_DOWN], parts[_UP], parts[_DOWN].shape[0]
    for part, tensor in parts.items():
        _check_numbers(name, part, tensor)
    if _ALPHA in parts:
        return LoraLayer(down, up, float(parts[_ALPHA]) / rank)
    alpha = _by_pattern(name, config.get("alpha_pattern"), config.get("lora_alpha", rank))
    return LoraLayer(down, up, alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _check_numbers(name: str, part: str, tensor: Tensor) -> None:
    """RegionStyleError for what would end in a black picture, or is no LoRA: NaN, whole numbers, several alphas."""
    whole = part != _ALPHA and not tensor.is_floating_point()
    several = part == _ALPHA and tensor.numel() != 1
    if whole or several or not bool(tensor.float().isfinite().all()):
        got = f"{tensor.dtype} {list(tensor.shape)}" if whole or several else "NaN or infinity"
        accepts = "one finite number" if part == _ALPHA else "finite floating point numbers"
        raise wrong_input(f"LoRA file, {part} of {name}", got, accepts, "Use another file; nothing was loaded.")


def _by_pattern(name: str, patterns: Mapping[str, Any] | None, default: float) -> float:
    """PEFT's rule: a pattern holds for layers whose name ends with it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
