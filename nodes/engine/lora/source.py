"""What a LoRA comes in: a .safetensors file, a PEFT folder, or tensors. Only safetensors are read: other formats can
run code when opened.

To add another container (a folder of another trainer, several files), read this file: `read_lora` tells them apart,
and each gives tensors by key, the text of its header, and the settings of PEFT's adapter_config.json that fix the
scale (`lora_alpha`, `alpha_pattern`, `use_rslora`; with none of them a layer's scale is 1, or its own alpha / rank).
How the keys of those tensors are written, in whatever container, is another file's subject and all in that one:
`keys.py`. What is damaged ends in one RegionStyleError that names the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input

# Where diffusers writes PEFT's configuration in a file's header.
HEADER_CONFIG = "lora_adapter_metadata"
LARGEST_ALPHA = 1e6
LONGEST_KEY = 500  # characters


def read_lora(source: str | Path | Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], dict[str, str], dict[str, Any]]:
    """Tensors, the header's text, and PEFT's configuration (empty where there is none).

    source: a .safetensors file, a PEFT folder, or tensors by key. RegionStyleError for anything else.
    """
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
    return tensors, metadata, _check_config(config or _header_config(metadata, source), str(source))


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        # Inside a ComfyUI node torch would otherwise make tensors that no backward pass can use.
        with torch.inference_mode(False), safe_open(path, framework="pt") as file:
            _check_keys(file.keys(), path)
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise wrong_input("LoRA file", f"{path} ({error})", "a safetensors file", "Download it again.") from error


def _peft_config(folder: Path) -> dict[str, Any]:
    path = folder / "adapter_config.json"
    if not path.is_file():
        got = f"the folder {folder} without adapter_config.json"
        raise wrong_input("LoRA file", got, "a PEFT adapter folder or a file", "Choose the .safetensors file itself.")
    config = _json_object(path.read_bytes(), str(path))
    if config.get("peft_type") != "LORA":
        raise wrong_input("LoRA file", f"a PEFT adapter of type {config.get('peft_type')}", "LORA", "Train a LoRA.")
    return config


def _header_config(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What diffusers writes in a file's header: PEFT's configuration, its keys starting with the part's name."""
    config = _json_object(metadata.get(HEADER_CONFIG, "{}"), f"{HEADER_CONFIG} in the header of {path}")
    parts = ("unet.", "transformer.")
    return {key.split(".", 1)[1]: value for key, value in config.items() if key.startswith(parts)}


def _json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """The object that a JSON text holds; RegionStyleError naming the file when it holds none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # broken or very deep JSON, or bytes that are no text
        raise wrong_input("LoRA file", f"{where} ({error})", "readable JSON", "Download it again.") from error
    if not isinstance(value, dict):
        got = f"{where}, which holds a {type(value).__name__}"
        raise wrong_input("LoRA file", got, "a JSON object", "Download it again.")
    return value


def _check_config(config: dict[str, Any], where: str) -> dict[str, Any]:
    """The settings that give a layer's scale, of the kinds that PEFT writes."""
    table = (dict, type(None))
    for key, kinds in (("lora_alpha", (int, float)), ("alpha_pattern", table), ("use_rslora", (bool, type(None)))):
        if key in config and not isinstance(config[key], kinds):
            got = f"{key} = {config[key]!r} in {where}"
            raise wrong_input("LoRA file", got, " or ".join(kind.__name__ for kind in kinds), "Download it again.")
    numbers = {"lora_alpha": config.get("lora_alpha", 1), **(config.get("alpha_pattern") or {})}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST_ALPHA:
            got = f"{key} = {value!r} in {where}"
            raise wrong_input("LoRA file", got, "a finite number", "Download it again; nothing was loaded.")
    return config


def _check_keys(keys: Iterable[str], path: Path) -> None:
    """Names of layers are short: the time that reading them takes must not be a stranger's choice."""
    if longest := next((key for key in keys if len(key) > LONGEST_KEY), None):
        accepts = f"names of layers, at most {LONGEST_KEY} characters"
        raise wrong_input("LoRA file", f"{path.name} with the key {longest[:80]!r}...", accepts, "Choose another.")
