"""R2R's files: read in every layout they were published or written in, written as diffusers folders.

Every tensor is accounted for: an error names the first that are missing, surplus or of another shape, and their number.
Nothing but tensors is ever unpickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.errors import RegionStyleError, wrong_input
from .architecture import SD, Architecture, new_unet
from .clear_vae import ClearVae
from .controller import HarmonyController
from .filter_kernels import without_kernels
from .keys import split

ENDINGS = (".safetensors", ".ckpt", ".bin", ".pt", ".pth")
TITLES = {"vae": "Clear-VAE", "unet": "U-Net", "controller": "Harmony Controller", "text": "text encoder"}
BUILD: dict[str, Any] = {"vae": ClearVae, "unet": new_unet, "controller": HarmonyController}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, unwrapped from a `state_dict`. RegionStyleError for one that is missing or holds none."""
    if not path.is_file():
        raise wrong_input(
            "weights", f"{path}, which does not exist", f"a file ({', '.join(ENDINGS)})", "Check the path."
        )
    try:
        with torch.inference_mode(False):  # weights made in ComfyUI's inference mode could not be trained
            state = _read(path)
    except Exception as error:  # both readers raise whatever they meet in a damaged file
        got = f"{path.name} ({type(error).__name__})"
        remedy = "Download it again; a pickle that holds more than tensors is not opened."
        raise wrong_input("weights", got, "a file of tensors", remedy) from error
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping):
        got = f"{path.name} with a {type(state).__name__} and no names"
        raise wrong_input("weights", got, "names and their tensors", "Choose another file.")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise wrong_input("weights", f"{path.name} without tensors", "a file of weights", "Choose another file.")
    return tensors


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True, mmap=_zipped(path))


def _zipped(path: Path) -> bool:
    """Whether torch wrote the file in its present format, which can be read piece by piece."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def read_parts(path: Path) -> dict[str, dict[str, Tensor]]:
    """The parts of a file, under diffusers' names. RegionStyleError for tensors that belong to none."""
    parts = split(read_tensors(path))
    if unknown := sorted(parts.pop("", ())):
        got = f"{path.name} with {len(unknown)} tensors of unknown names ({', '.join(unknown[:3])})"
        raise wrong_input("weights", got, "R2R's own", "Choose a file of Clear-VAE, U-Net or Harmony Controller.")
    if "vae" in parts:
        parts["vae"] = without_kernels(parts["vae"], path.name)
    return parts


def is_clear(names: Iterable[str]) -> bool:
    """Whether an autoencoder's tensors, or some of them, are a Clear-VAE's, and not those of a plain one."""
    return any(name.startswith("filters.") or ".skip_connect." in name for name in names)


def build(
    part: str, state: Mapping[str, Tensor], architecture: Architecture, file: str,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:  # fmt: skip
    """A part's network with these tensors, frozen, in evaluation mode. RegionStyleError unless they fit exactly."""
    with torch.device("meta"):
        network: nn.Module = BUILD[part](architecture)
    check_fit(part, network.state_dict(), state, file)
    # Ordinary tensors of their own, wherever this runs: those of a mapped file, or of ComfyUI's inference mode, could
    # not be trained.
    with torch.inference_mode(False):
        network.load_state_dict({name: tensor.to(dtype, copy=True) for name, tensor in state.items()}, assign=True)
        _materialise_buffers(network)
    return network.eval().requires_grad_(False)


def check_fit(part: str, wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], file: str) -> None:
    """RegionStyleError naming tensors that are missing, surplus or of another shape."""
    shapes = {n: f"{list(state[n].shape)}, not {list(wanted[n].shape)}" for n in wanted.keys() & state.keys()
              if state[n].shape != wanted[n].shape}  # fmt: skip
    faults = {
        "lacks": sorted(wanted.keys() - state.keys()),
        "has surplus": sorted(state.keys() - wanted.keys()),
        "has other shapes in": [f"{name} {how}" for name, how in sorted(shapes.items())],
    }
    shown = [f"{how} {', '.join(names[:3])} ({len(names)} such)" for how, names in faults.items() if names]
    if shown:
        got = f"{file} with {len(state)} tensors, which {'; '.join(shown)}"
        raise wrong_input(TITLES[part], got, f"{len(wanted)} tensors", "Use the file as it was published.")
    bad = [n for n, t in state.items() if not t.is_meta and not bool(t.isfinite().all())]
    if bad:
        got = f"{file} with NaN or infinity in {', '.join(bad[:3])} ({len(bad)} such)"
        raise wrong_input(TITLES[part], got, "finite numbers", "Download it again.")


def _materialise_buffers(network: nn.Module) -> None:
    if left := [name for name, tensor in network.named_buffers() if tensor.is_meta]:
        raise RegionStyleError(f"{type(network).__name__}: {', '.join(left)} are not in the file.")


def architecture_of(parts: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any] | None = None) -> Architecture:
    """The sizes of networks by the shapes of their tensors; what shapes do not tell (heads and groups) by a
    `config.json`, or as Stable Diffusion 1.x has them. A missing part is of Stable Diffusion's size."""
    config, vae, unet = config or {}, parts.get("vae", {}), parts.get("unet") or parts.get("controller", {})
    hint = parts.get("controller", {})
    heads = config.get("attention_head_dim", SD.heads)
    sizes = Architecture(
        vae=_outputs(vae, "encoder.down_blocks.{}.resnets.0.conv1.weight", SD.vae),
        unet=_outputs(unet, "down_blocks.{}.resnets.0.conv1.weight", SD.unet),
        hint=_hint_outputs(hint),
        text_width=_size(unet, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", 1, SD.text_width),
        heads=heads if isinstance(heads, int) else SD.heads,
        groups=int(config.get("norm_num_groups") or SD.groups),
    )
    if any(channels % sizes.groups for channels in (*sizes.vae, *sizes.unet)):
        got = f"channels {sizes.vae} and {sizes.unet}, which {sizes.groups} groups do not divide"
        raise wrong_input("R2R", got, "Stable Diffusion's sizes, or a config.json", "Put its config.json beside it.")
    return sizes


def _outputs(state: Mapping[str, Tensor], name: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(_size(state, name.format(level), 0, usual[level]) for level in range(len(usual)))


def _hint_outputs(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    home = "controlnet_cond_embedding."
    names = [f"{home}conv_in.weight", *(f"{home}blocks.{n}.weight" for n in (1, 3, 5))]
    return tuple(_size(state, name, 0, usual) for name, usual in zip(names, SD.hint, strict=True))


def _size(state: Mapping[str, Tensor], name: str, axis: int, usual: int) -> int:
    return int(state[name].shape[axis]) if name in state and state[name].ndim > axis else usual
