"""Keys of LoRA files: which layer of a network and which of its tensors a key names, in every layout in use.

A key is prefix + layer + tensor. Layouts read:

- kohya: `lora_unet_<layer with underscores>.lora_down.weight`, the layer named as in ComfyUI or as in diffusers
  (`lora_transformer_...` and `lycoris_...` likewise);
- diffusers: `unet.<layer>.lora_A.weight`, `transformer.<layer>.lora_A.weight`, `unet.<layer>.lora.down.weight`,
  `unet.<attention>.processor.to_q_lora...`;
- those of single trainers, which their family knows (`ModelFamily.usual_name`);
- PEFT: a folder with adapter_config.json, or `base_model.model.<layer>.lora_A.weight`;
- ComfyUI's own: `diffusion_model.<layer as in ComfyUI>.lora_up.weight`.

To add a layout, read this file: how a tensor is written is in `_TENSOR`, a prefix in `_PREFIX`, other ways to write a
layer's name in `_dotted`; which of diffusers' layers a name stands for is said by the families. LoHa
and LoKr are made LoRA of the same effect before their keys are read (`lycoris.py`); what DoRA adds to any of these is
told in `magnitude.py`. Other kinds of adapters are refused
by name (`_OTHER_KINDS`); one that no LoRA equals needs an update of its own beside those in `adapters/products.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from ..errors import wrong_input
from ..families.registry import family_of_layer, layer_name, usual_layer_name
from ..families.support import supported_lora_layers

DOWN, UP, ALPHA, DORA_SCALE, MAGNITUDE = "down", "up", "alpha", "dora_scale", "magnitude"
# The end of a key, for tensors of rank R; the name of a PEFT adapter may stand before ".weight".
_TENSOR = re.compile(
    r"(?P<layer>.+?)(?:"
    r"\.(?:lora_down|lora_A(?:\.\w+)?|lora(?:_linear_layer)?\.down)\.weight(?P<down>)"
    r"|\.(?:lora_up|lora_B(?:\.\w+)?|lora(?:_linear_layer)?\.up)\.weight(?P<up>)"
    r"|(?:(?<=_lora)|(?<=_lora[12]))(?:\.down\.weight(?P<down2>)|\.up\.weight(?P<up2>))"
    r"|\.alpha(?P<alpha>)|\.dora_scale(?P<dora_scale>)"
    r"|\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?(?P<magnitude>))$"
)
TEXT_ENCODER = re.compile(
    r"(?:base_model\.model\.)?(?:lora_te\d?_|text_encoders?(?:_\d)?\.|te\d?\.|clip_[lg]\.|t5xxl\.|text_model\.)"
)
_PREFIX = re.compile(r"^(?:(?:base_model\.model|unet|transformer|model|diffusion_model|lora_unet)\.)+")
_UNDERSCORED = re.compile(r"^(?:lora_unet|lora_transformer|lycoris)_")
# What only adapters of another kind have in a key.
_OTHER_KINDS = {
    "LoCon with Tucker decomposition": re.compile(r"\.lora_mid\."),
    "OFT or BOFT": re.compile(r"\.(?:oft_|boft_)"),
    "GLoRA": re.compile(r"\.(?:a1|a2|b1|b2)\.weight$"),
}


# What may be in a file and acts on no layer of the denoiser: embeddings bundled by OneTrainer, trained norms (LyCORIS).
_LEFT_OUT = re.compile(r"bundle_emb\.|.*\.(?:w_norm|b_norm)$|.*norm[\w.]*\.(?:diff|diff_b)$")


def left_out(keys: Iterable[str]) -> tuple[str, ...]:
    """The keys of what experts have no place for, and what changes little: bundled embeddings and norms."""
    return tuple(key for key in keys if _LEFT_OUT.match(key))


def refuse_other_kinds(tensors: Mapping[str, Tensor]) -> None:
    """RegionStyleError, naming the kind, for the keys of adapters that are neither LoRA nor DoRA."""
    for kind, pattern in _OTHER_KINDS.items():
        keys = [key for key in tensors if pattern.search(key)]
        if keys:
            got = f"{kind} ({keys[0]}, {len(keys)} such keys)"
            raise wrong_input("LoRA file", got, "LoRA or DoRA layers", "Use a LoRA; nothing was loaded.")


def group_by_layer(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer name with dots and without prefix -> its tensors by `DOWN` and `UP`; in some files by `ALPHA` and, of DoRA,
    `DORA_SCALE` or `MAGNITUDE`.

    RegionStyleError listing all keys that fit no layout, and layers without down or up.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        match = _TENSOR.match(key)
        layer = match and _dotted(match["layer"])
        if not match or not layer:
            unknown.append(key)
            continue
        role = next(name for name, group in match.groupdict().items() if name != "layer" and group is not None)
        if layers.setdefault(layer, {}).setdefault(role.rstrip("2"), tensor) is not tensor:
            unknown.append(f"{key} (a second one for {layer})")
    incomplete = [layer for layer, roles in layers.items() if not {DOWN, UP} <= set(roles)]
    if unknown or incomplete:
        shown = "\n  ".join([*unknown, *(f"{layer} (down or up missing)" for layer in incomplete)])
        got = f"{len(unknown) + len(incomplete)} keys that fit no layout:\n  {shown}\n"
        raise wrong_input("LoRA file", got, known_layouts(), "Use another file; nothing was loaded.")
    return layers


def _dotted(layer: str) -> str | None:
    """A layer's name with dots and without prefix, in diffusers' or ComfyUI's numbering; None for no known layer."""
    if underscored := _UNDERSCORED.sub("", layer) if _UNDERSCORED.match(layer) else None:
        return layer_name(underscored)
    layer = _PREFIX.sub("", layer)
    processor = re.fullmatch(r"(.+)\.processor\.(to_\w+?)_lora", layer)
    if processor:
        layer = f"{processor[1]}.{processor[2]}"
    layer = usual_layer_name(layer)
    layer = layer + ".0" if layer.endswith(".to_out") else layer
    return layer if family_of_layer(layer) else None


def known_layouts() -> str:
    """What is read, as an error says it."""
    return f"kohya, diffusers, PEFT or ComfyUI LoRA {supported_lora_layers()}"
