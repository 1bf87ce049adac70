"""Writing style experts as LoRA files that other programs read.

Written is what ComfyUI's own LoRA loader reads for that kind of network (`ModelFamily.lora_layouts`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import wrong_input
from ..families.registry import family_of_layer
from ..io.safe_write import replacing
from .expert import Expert, LoraLayer
from .source import HEADER_CONFIG


def save_expert(expert: Expert, path: str | Path, *, layout: str | None = None) -> None:
    """Write an expert as a .safetensors file that ComfyUI's LoRA loader applies with the same effect.

    layout: "kohya" for U-Nets (with diffusers' layer names, which do not depend on the network's block numbers),
    "diffusers" for transformers; default: the one for this expert. "diffusers" is also written for U-Nets when it is
    asked for: diffusers, PEFT and this pack read it, ComfyUI's own loader passes over its keys without a word. Name,
    style and metadata are kept in the file's header. RegionStyleError for "kohya" with transformers, another suffix,
    row slices, or DoRA.
    """
    from safetensors.torch import save_file

    path = Path(path)
    write = _layout(expert, layout)
    if path.suffix != ".safetensors":
        raise wrong_input("path", str(path), "a name ending in .safetensors", "Rename it.")
    if sliced := [layer for layer, lora in expert.layers.items() if lora.rows is not None]:
        raise wrong_input("expert", f"row slices in {sliced}", "whole layers", "This layout cannot hold them.")
    if decomposed := [layer for layer, lora in expert.layers.items() if lora.magnitude is not None]:
        raise wrong_input("expert", f"DoRA in {decomposed}", "LoRA layers", "Keep the file that it was read from.")
    own = {"regionstyle_name": expert.name, "regionstyle_style": expert.style, "format": "pt"}
    # The configuration fixes the scale of the file that was read. In this one the tensors say it.
    kept = {key: text for key, text in expert.metadata.items() if key != HEADER_CONFIG}
    tensors = write(expert)
    if bad := next((key for key, tensor in tensors.items() if not bool(tensor.isfinite().all())), None):
        raise wrong_input("expert", f"NaN or infinity in {bad}", "finite numbers", "Its training has failed.")
    with replacing(path, "LoRA file") as part:
        save_file(tensors, part, metadata={**kept, **own})


def _layout(expert: Expert, layout: str | None) -> Callable[[Expert], dict[str, Tensor]]:
    families = [family_of_layer(path) for path in expert.layers]
    without_kohya = all(family is not None and "kohya" not in family.lora_layouts for family in families)
    writers = {"diffusers": _diffusers} if without_kohya else {"kohya": _kohya, "diffusers": _diffusers_unet}
    if layout is not None and layout not in writers:
        accepts = " or ".join(map(repr, writers))
        raise wrong_input("layout", repr(layout), accepts, "The first is what ComfyUI reads for this kind of network.")
    return writers[layout] if layout else next(iter(writers.values()))


def kohya_name(path: str) -> str:
    """What kohya's layout calls the layer of a U-Net at a diffusers path; `.lora_down.weight` and so on follow."""
    return "lora_unet_" + path.replace(".", "_")


def _kohya(expert: Expert) -> dict[str, Tensor]:
    named = {kohya_name(path): layer for path, layer in expert.layers.items()}
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
