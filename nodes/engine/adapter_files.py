"""LoRA files of style experts: every layout in use for Stable Diffusion class U-Nets in, kohya's layout out.

A key is prefix + layer + part. Layouts read:

- kohya: `lora_unet_<layer with underscores>.lora_down.weight`, the layer named as in ComfyUI or as in diffusers;
- diffusers: `unet.<layer>.lora_A.weight`, `unet.<layer>.lora.down.weight`, `unet.<attention>.processor.to_q_lora...`;
- PEFT: a folder with adapter_config.json, or `base_model.model.<layer>.lora_A.weight`;
- ComfyUI's own: `diffusion_model.<layer as in ComfyUI>.lora_up.weight`.

Only safetensors files are opened: other formats can run code when read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import wrong_input
from .expert import Expert, LoraLayer
from .unet_names import counts_of_network, guess_counts, is_ldm_name, table_lookup, to_diffusers, with_dots

_DOWN, _UP, _ALPHA = "down", "up", "alpha"
# The end of a key, for tensors of rank R; the name of a PEFT adapter may stand before ".weight".
_PART = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.(?:lora_down|lora_A(?:\.\w+)?|lora(?:_linear_layer)?\.down)\.weight(?P<down>)"
    r"|\.(?:lora_up|lora_B(?:\.\w+)?|lora(?:_linear_layer)?\.up)\.weight(?P<up>)"
    r"|(?<=_lora)\.down\.weight(?P<down2>)|(?<=_lora)\.up\.weight(?P<up2>)"
    r"|\.alpha(?P<alpha>))$"
)
_TEXT_ENCODER = re.compile(
    r"(?:base_model\.model\.)?(?:lora_te\d?_|text_encoder(?:_\d)?\.|te\d?\.|clip_[lg]\.|text_model\.)"
)
_PREFIX = re.compile(r"^(?:(?:base_model\.model|unet|model|diffusion_model|lora_unet)\.)+")
_KINDS = "kohya, diffusers, PEFT or ComfyUI LoRA layers of a Stable Diffusion class U-Net"


def load_expert(
    source: str | Path | Mapping[str, Tensor],
    *,
    name: str | None = None,
    network: nn.Module | None = None,
    ignore_text_encoder: bool = False,
) -> Expert:
    """Read an expert from a .safetensors file, a PEFT folder, or tensors by key (which are not copied).

    name: default the file's stem. network: the U-Net it was made for, needed only for files with ComfyUI's layer
    names and a layout other than that of SD1, SD2 and SDXL. Tensors keep their dtype; without an alpha the scale is 1.

    RegionStyleError for a file that is missing or of another format, keys that fit no layout (all are listed), and
    updates of the text encoder: experts act on the denoiser only. With `ignore_text_encoder=True` these are left
    out, and listed in the expert's `unused`.
    """
    tensors, metadata, config = _read(source)
    unused = tuple(key for key in tensors if _TEXT_ENCODER.match(key))
    if unused and not ignore_text_encoder:
        got, accepts = f"{len(unused)} text encoder keys ({unused[0]}, ...)", "updates of the denoiser only"
        raise wrong_input("LoRA file", got, accepts, "To do without them, allow the text encoder to be ignored.")
    parts = _group({key: tensor for key, tensor in tensors.items() if key not in unused})
    paths = _diffusers_paths(parts, network)
    layers = {paths[layer]: _layer(layer, found, config) for layer, found in parts.items()}
    name = name or metadata.get("regionstyle_name") or (Path(source).stem if isinstance(source, str | Path) else "")
    if not layers or not name:
        got = "no LoRA layers" if not layers else "tensors without a name"
        raise wrong_input("LoRA file", got, _KINDS, "Pass name=..." if layers else "Choose another file.")
    return Expert(name, layers, metadata.get("regionstyle_style", ""), metadata, unused)


def save_expert(expert: Expert, path: str | Path, *, layout: str = "kohya") -> None:
    """Write an expert as a .safetensors file that ComfyUI's LoRA loader applies with the same effect.

    kohya's layout with diffusers layer names, which does not depend on the network's block numbers. Name, style and
    metadata are kept in the file's header. RegionStyleError for another layout, another suffix, or row slices.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if layout != "kohya":
        raise wrong_input("layout", repr(layout), "'kohya'", "It is what ComfyUI reads for U-Nets.")
    if path.suffix != ".safetensors":
        raise wrong_input("path", str(path), "a name ending in .safetensors", "Rename it.")
    if sliced := [layer for layer, lora in expert.layers.items() if lora.rows is not None]:
        raise wrong_input("expert", f"row slices in {sliced}", "whole layers", "This layout cannot hold them.")
    own = {"regionstyle_name": expert.name, "regionstyle_style": expert.style, "format": "pt"}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(_kohya(expert), path, metadata={**expert.metadata, **own})


def _kohya(expert: Expert) -> dict[str, Tensor]:
    tensors = {}
    for path, layer in expert.layers.items():
        key = "lora_unet_" + path.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = layer.down.detach().cpu().contiguous().clone()
        tensors[f"{key}.lora_up.weight"] = layer.up.detach().cpu().contiguous().clone()
        tensors[f"{key}.alpha"] = torch.tensor(layer.scale * layer.rank)
    return tensors


def _read(source: str | Path | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors, the header's text, and PEFT's configuration (empty where there is none)."""
    if isinstance(source, Mapping):
        return source, {}, {}
    source = Path(source)
    config: dict[str, Any] = {}
    if source.is_dir():
        config, source = _peft_config(source), source / "adapter_model.safetensors"
    if not source.is_file() or source.suffix != ".safetensors":
        got = str(source) if source.is_file() else f"{source}, which does not exist"
        raise wrong_input("LoRA file", got, "a .safetensors file, or a PEFT folder that holds one", "Choose another.")
    tensors, metadata = _open(source)
    return tensors, metadata, config or _header_config(metadata)


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Inside a ComfyUI node torch would otherwise make tensors that no backward pass can use.
        with torch.inference_mode(False), safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise wrong_input("LoRA file", f"{path} ({error})", "a safetensors file", "Download it again.") from error


def _peft_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        got = f"the folder {folder} without adapter_config.json"
        raise wrong_input("LoRA file", got, "a PEFT adapter folder or a file", "Choose the .safetensors file itself.")
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA" or config.get("use_dora"):
        got = "DoRA" if config.get("use_dora") else config.get("peft_type")
        raise wrong_input("LoRA file", f"a PEFT adapter of type {got}", "LORA", "Train a plain LoRA.")
    return config


def _header_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """What diffusers writes in a file's header: PEFT's configuration, its keys starting with the part's name."""
    config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    return {key.removeprefix("unet."): value for key, value in config.items() if key.startswith("unet.")}


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
        found.setdefault(layer, {})[part.rstrip("2")] = tensor
    incomplete = [layer for layer, parts in found.items() if not {_DOWN, _UP} <= set(parts)]
    if unknown or incomplete:
        shown = "\n  ".join([*unknown, *(f"{layer} (down or up missing)" for layer in incomplete)])
        got = f"{len(unknown) + len(incomplete)} keys that fit no layout:\n  {shown}\n"
        raise wrong_input("LoRA file", got, _KINDS, "Use another file; nothing was loaded.")
    return found


def _dotted(layer: str) -> str | None:
    """A layer's name with dots and without prefix, in diffusers' or ComfyUI's numbering."""
    if layer.startswith("lora_unet_"):
        return with_dots(layer.removeprefix("lora_unet_"))
    layer = _PREFIX.sub("", layer)
    processor = re.fullmatch(r"(.+)\.processor\.(to_\w+?)_lora", layer)
    if processor:
        layer = f"{processor[1]}.{processor[2]}"
    layer = layer + ".0" if layer.endswith(".to_out") else layer
    return layer if with_dots(layer.replace(".", "_")) == layer else None


def _diffusers_paths(layers: Mapping[str, object], network: nn.Module | None) -> dict[str, str]:
    """Layer name -> diffusers path."""
    ldm = [name for name in layers if is_ldm_name(name)]
    paths: dict[str, str | None] = {name: name for name in layers}
    if ldm:
        resnets = table_lookup(guess_counts(ldm) if network is None else counts_of_network(network))
        paths.update({name: to_diffusers(name, resnets) for name in ldm})
    if lost := [name for name, path in paths.items() if path is None]:
        raise wrong_input("LoRA file", f"layers {lost}", "layers of this network", "Use an expert made for it.")
    return {name: path for name, path in paths.items() if path is not None}


def _layer(name: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> LoraLayer:
    down, up, rank = parts[_DOWN], parts[_UP], parts[_DOWN].shape[0]
    if _ALPHA in parts:
        return LoraLayer(down, up, float(parts[_ALPHA]) / rank)
    alpha = _by_pattern(name, config.get("alpha_pattern"), config.get("lora_alpha", rank))
    return LoraLayer(down, up, alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _by_pattern(name: str, patterns: Mapping[str, Any] | None, default: float) -> float:
    """PEFT's rule: a pattern holds for layers whose name ends with it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default
