"""Opening a LoRA file or a PEFT folder. Only safetensors files are read: other formats can run code when opened."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import wrong_input


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
    parts = ("unet.", "transformer.")
    return {key.split(".", 1)[1]: value for key, value in config.items() if key.startswith(parts)}
