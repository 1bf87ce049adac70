"""Where R2R's parts lie in a folder or a checkpoint, and reading and writing all of them.

A folder holds `clear_vae`, `unet`, `controlnet` in diffusers' layout, these below `stable-diffusion-inpainting` as in
the published repository, or checkpoints of the original code. Of a part that is there twice diffusers' folder is taken:
the published `diff-base.ckpt` brings an untrained controller.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.safe_write import replacing, write_text
from .architecture import SCALING, Architecture
from .filter_kernels import kernels
from .networks import R2RNetworks
from .text import FILE, KEY, prompt_of_folder, prompt_of_state, stored_prompt
from .weights import ENDINGS, TITLES, architecture_of, build, is_clear, read_parts

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
FOLDERS = {"vae": "clear_vae", "unet": "unet", "controller": "controlnet"}
PLAIN_VAE = "vae"  # of Stable Diffusion
BASE = "stable-diffusion-inpainting"
PUBLIC = "1243asdad/region2region on Hugging Face (clear_vae and stable-diffusion-inpainting, or the .ckpt files)"


class MissingPart(RegionStyleError):
    """A part is not in the place where it was looked for."""


@dataclass
class _Found:
    parts: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)


def load_r2r(
    path: Path, *, unet_dtype: torch.dtype = torch.float32, vae_dtype: torch.dtype = torch.float32,
    controller: bool = True,
) -> R2RNetworks:  # fmt: skip
    """The networks of a folder or a checkpoint, on the CPU, frozen.

    controller: whether one is needed. RegionStyleError naming what is not there and where it is looked for, and for
    tensors that do not fit.
    """
    if not path.exists():
        raise wrong_input("R2R", f"{path}, which does not exist", "a folder or checkpoint", f"Public: {PUBLIC}.")
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    wanted = ("vae", "unet", "controller") if controller else ("vae", "unet")
    if missing := [part for part in wanted if part not in found.parts]:
        raise _missing(path, missing)
    architecture = architecture_of(found.parts, found.configs.get("unet") or found.configs.get("vae"))
    built = {
        part: build(
            part, found.parts.pop(part), architecture, found.files[part], vae_dtype if part == "vae" else unet_dtype
        )
        for part in ("vae", "unet", "controller") if part in found.parts
    }  # fmt: skip
    prompt = _prompt(path, found, architecture)
    vae, unet, control = (built.get(part) for part in ("vae", "unet", "controller"))
    return R2RNetworks(vae, unet, control, prompt, architecture)  # type: ignore[arg-type]


def load_part(part: str, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """One part's tensors and its config (empty for checkpoints), from a folder or a checkpoint. For training."""
    own = next((path / each for each in WEIGHTS if (path / each).is_file()), None)
    if own is not None:
        found = _of_file(own, plain_vae=True)
        found.configs[part] = _config(path)
    else:
        found = _of_folder(path, (part,), plain_vae=True) if path.is_dir() else _of_file(path, plain_vae=True)
    if part not in found.parts:
        raise _missing(path, [part])
    return found.parts[part], found.configs.get(part, {})


def _of_folder(folder: Path, parts: Sequence[str] = tuple(FOLDERS), *, plain_vae: bool = False) -> _Found:
    """What a folder holds of these parts, and a text encoder where it is needed. Checkpoints are opened only while
    something is not there: other files may lie beside.

    plain_vae: where there is no Clear-VAE, Stable Diffusion's autoencoder, in `vae` or a checkpoint.
    """
    found = _Found()
    for part in parts:
        _take_folder(found, folder, FOLDERS[part], part)
    text = ("text",) if len(parts) == len(FOLDERS) and prompt_home(folder) is None else ()
    for file in _checkpoints(folder):
        if need := tuple(part for part in (*parts, *text) if part not in found.parts):
            _take(found, file, need)
    if plain_vae and "vae" in parts and "vae" not in found.parts:
        _take_folder(found, folder, PLAIN_VAE, "vae", plain_vae=True)
        for file in _checkpoints(folder):
            if "vae" not in found.parts:
                _take(found, file, ("vae",), plain_vae=True)
    return found


def _take_folder(found: _Found, folder: Path, name: str, part: str, *, plain_vae: bool = False) -> None:
    """A part from its diffusers folder in `folder` or below `BASE`."""
    for home in (folder / name, folder / BASE / name):
        file = next((home / each for each in WEIGHTS if (home / each).is_file()), None)
        if file is not None and part not in found.parts:
            _take(found, file, (part,), plain_vae=plain_vae)
            found.configs[part] = _config(home)


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of the original code; not the state of a training."""
    files = (f for f in folder.iterdir() if f.suffix in ENDINGS and f.is_file())
    return sorted(f for f in files if f.name not in (FILE, *WEIGHTS) and not f.name.endswith(".train.pt"))


def _of_file(path: Path, *, plain_vae: bool = False) -> _Found:
    found = _Found()
    _take(found, path, (*FOLDERS, "text"), plain_vae=plain_vae)
    return found


def _take(found: _Found, file: Path, wanted: tuple[str, ...], *, plain_vae: bool = False) -> None:
    for part, state in read_parts(file).items():
        if part in wanted and (part != "vae" or plain_vae or is_clear(state)):
            found.parts[part], found.files[part] = state, file.name


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        got = f"{folder / 'config.json'} ({type(error).__name__})"
        raise wrong_input("R2R", got, "a config.json", "Download it again.") from error
    return config if isinstance(config, dict) else {}


def _prompt(path: Path, found: _Found, architecture: Architecture) -> Tensor:
    prompt = _found_prompt(path, found)
    if prompt.shape[-1] != architecture.text_width:
        got, accepts = f"width {prompt.shape[-1]}", f"{architecture.text_width}, the U-Net's"
        raise wrong_input("empty prompt", got, accepts, "Use the text encoder that belongs to the U-Net.")
    return prompt


def load_prompt(path: Path) -> Tensor | None:
    """The empty prompt's embedding that a folder, or the folder of a checkpoint, holds or its text encoder gives;
    None where neither is there."""
    home = prompt_home(path if path.is_dir() else path.parent)
    if home is None:
        return None
    return stored_prompt(home) if home.name == FILE else prompt_of_folder(home)


def prompt_home(folder: Path) -> Path | None:
    """The file of the empty prompt's embedding in a folder, else its text encoder's folder; None where neither is."""
    if (folder / FILE).is_file():
        return folder / FILE
    homes = (folder / "text_encoder", folder / BASE / "text_encoder")
    return next((home for home in homes if (home / "config.json").is_file()), None)


def _found_prompt(path: Path, found: _Found) -> Tensor:
    prompt = load_prompt(path)
    if prompt is not None:
        return prompt
    folder = path if path.is_dir() else path.parent
    if "text" in found.parts:
        return prompt_of_state(found.parts["text"], found.files["text"])
    raise wrong_input("R2R", f"{path} without a text encoder", f"text_encoder or {FILE} in {folder}",
                      "Put Stable Diffusion 1.5's text_encoder folder there.")  # fmt: skip


def _missing(path: Path, parts: list[str]) -> MissingPart:
    names = " and ".join(TITLES[part] for part in parts)
    places = ", ".join(f"{FOLDERS.get(part, 'text_encoder')}/{WEIGHTS[0]}" for part in parts)
    accepts = f"{places}, or a checkpoint beside"
    return MissingPart(str(wrong_input("R2R", f"{path} without {names}", accepts, f"Public: {PUBLIC}.")))


def save_r2r(networks: R2RNetworks, folder: Path) -> None:
    """Write all parts as diffusers folders with safetensors, and the empty prompt's embedding."""
    save_part("vae", networks.vae.state_dict(), networks.architecture, folder)
    save_part("unet", networks.unet.state_dict(), networks.architecture, folder)
    if networks.controller is not None:
        save_part("controller", networks.controller.state_dict(), networks.architecture, folder)
    save_prompt(networks.empty_prompt, folder)


def save_prompt(prompt: Tensor, folder: Path) -> None:
    """Write the empty prompt's embedding, which then stands for the text encoder."""
    _save(folder / FILE, {KEY: prompt})


def save_part(part: str, state: Mapping[str, Tensor], architecture: Architecture, folder: Path) -> Path:
    """Write one part as a diffusers folder below `folder`; the Clear-VAE with its constant kernels, as published."""
    home = folder / FOLDERS[part]
    constants = kernels(_filter_channels(architecture)) if part == "vae" else {}
    _save(home / WEIGHTS[0], {**state, **constants})
    write_text(home / "config.json", json.dumps(_config_of(part, architecture), indent=2) + "\n")
    return home


def _save(path: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with replacing(path, "R2R") as file:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        save_file(tensors, file, metadata={"format": "pt"})


def _filter_channels(architecture: Architecture) -> list[int]:
    """Of the twelve features that the filters see."""
    channels = [architecture.vae[0]]
    for level, width in enumerate(architecture.vae):
        channels += [width] * (3 if level < len(architecture.vae) - 1 else 2)
    return channels


def _config_of(part: str, architecture: Architecture) -> dict[str, Any]:
    if part == "vae":
        return {
            "_class_name": "AutoencoderKL_Skip", "use_skip": True, "training": False, "layers_per_block": 2,
            "block_out_channels": list(architecture.vae), "norm_num_groups": architecture.groups,
            "latent_channels": 4, "sample_size": 512, "scaling_factor": SCALING, "force_upcast": False,
        }  # fmt: skip
    config = {
        "_class_name": "UNet2DConditionModel" if part == "unet" else "ControlNetModel",
        "block_out_channels": list(architecture.unet), "layers_per_block": 2, "norm_num_groups": architecture.groups,
        "cross_attention_dim": architecture.text_width, "attention_head_dim": architecture.heads,
        "in_channels": 9 if part == "unet" else 4,
    }  # fmt: skip
    if part == "controller":
        config |= {"conditioning_channels": 7, "conditioning_embedding_out_channels": list(architecture.hint)}
    return config
