"""Which weights a stage begins with: its own from where the user says, frozen ones of the stages before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ..r2r.architecture import TINY, Architecture, new_unet
from ..r2r.clear_vae import ClearVae
from ..r2r.controller import HarmonyController, copied_from_unet
from ..r2r.files import MissingPart, load_part, load_prompt
from ..r2r.networks import TEXT_LENGTH, R2RNetworks
from ..r2r.weights import TITLES, build, check_fit, is_clear

NEEDED = {"vae": ("vae",), "unet": ("vae", "unet"), "controller": ("vae", "unet", "controller")}


@dataclass(frozen=True, eq=False)
class Start:
    """networks: what takes part in the stage, the rest None; told: where each came from; from_nothing: whether the
    stage's own weights are random, and the Clear-VAE's encoder therefore learns too."""

    networks: R2RNetworks
    told: tuple[str, ...]
    from_nothing: bool


def starting_networks(stage: str, architecture: Architecture, seed: int, places: Sequence[Path]) -> Start:
    """The networks of a stage from the first of some folders or checkpoints that has them.

    A controller that is nowhere begins as the U-Net's encoder; a small network that is nowhere, at random.
    RegionStyleError for a frozen network, or one of Stable Diffusion's size, that is nowhere.
    """
    found = {part: _first(part, places) for part in NEEDED[stage]}
    told = tuple(f"{TITLES[part]}: {place}" for part, (_, place) in found.items() if place)
    missing = [part for part in NEEDED[stage] if not found[part][0]]
    for part in missing:
        if part != stage or (part != "controller" and architecture != TINY):
            raise _nowhere(part, places)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        vae: Any = _vae(found["vae"], architecture)
        unet: Any = _network("unet", found["unet"], architecture) if "unet" in found else None
        controller: Any = _controller(found, unet, architecture) if stage == "controller" else None
        prompt = _prompt(stage, architecture, places)
    return Start(R2RNetworks(vae, unet, controller, prompt, architecture), told, stage in missing)


def _first(part: str, places: Sequence[Path]) -> tuple[dict[str, Tensor], str]:
    for place in places:
        if place.exists():
            try:
                return load_part(part, place)[0], str(place)
            except MissingPart:
                continue
    return {}, ""


def _vae(found: tuple[dict[str, Tensor], str], architecture: Architecture) -> ClearVae:
    """A Clear-VAE, or a plain autoencoder with new skip connections."""
    state, place = found
    vae = ClearVae(architecture)
    if state:
        own = vae.state_dict()
        new = {} if is_clear(state) else {name: tensor for name, tensor in own.items() if is_clear([name])}
        check_fit("vae", own, {**new, **state}, place)
        vae.load_state_dict({**new, **state})
    return vae


def _network(part: str, found: tuple[dict[str, Tensor], str], architecture: Architecture) -> Any:
    state, place = found
    return build(part, state, architecture, place) if state else new_unet(architecture)


def _controller(
    found: dict[str, tuple[dict[str, Tensor], str]], unet: Any, architecture: Architecture
) -> HarmonyController:
    state, place = found["controller"]
    if state:
        controller: HarmonyController = build("controller", state, architecture, place)  # type: ignore[assignment]
        return controller
    return copied_from_unet(HarmonyController(architecture), unet)


def _prompt(stage: str, architecture: Architecture, places: Sequence[Path]) -> Tensor:
    for place in places:
        prompt = load_prompt(place) if place.exists() else None
        if prompt is not None:
            return prompt
    if stage == "vae":
        return torch.zeros(1, TEXT_LENGTH, architecture.text_width)
    if architecture == TINY:
        return torch.randn(1, TEXT_LENGTH, architecture.text_width)
    accepts = "text_encoder or empty_prompt.safetensors beside the weights"
    raise wrong_input("--start", "no text encoder", accepts, "Put Stable Diffusion 1.5's text_encoder folder there.")


def _nowhere(part: str, places: Sequence[Path]) -> RegionStyleError:
    looked = " and ".join(str(place) for place in places)
    remedy = {
        "vae": "Give Stable Diffusion's autoencoder, or train r2r-vae first.",
        "unet": "Give the inpainting U-Net, or train r2r-unet first.",
        "controller": "",
    }[part]
    return wrong_input("--start", f"no {TITLES[part]} in {looked}", "a folder or checkpoint with one", remedy)
