"""The known model families, and who among them answers a question. A new family's object goes into `_families`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from ..errors import wrong_input
from .base import ModelFamily
from .flux import Flux
from .layers import LayerSlice, class_names
from .sd3 import StableDiffusion3
from .sdxl import StableDiffusionXL
from .stable_diffusion import StableDiffusion

if TYPE_CHECKING:
    from ..predictor.schedule import Schedule
    from .denoiser import Denoiser

# In the order of tables and sentences.
_families: list[ModelFamily] = [StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux()]


def families() -> tuple[ModelFamily, ...]:
    """All known families, in the order of tables and sentences."""
    return tuple(_families)


def register(family: ModelFamily) -> None:
    """Make a family known, after those there are. RegionStyleError for a name that is taken."""
    if family.name in [known.name for known in _families]:
        raise wrong_input("family", repr(family.name), "a name that is not taken", "Choose another name.")
    _families.append(family)


def unregister(family: ModelFamily) -> None:
    """Forget a family. ValueError for one that is not registered."""
    _families.remove(family)


def family_of(network: nn.Module, *, argument: str = "network") -> ModelFamily:
    """The family of a network of either host; argument: what an error calls the network.

    RegionStyleError, saying which there are, for a network of no known family.
    """
    for family in _families:
        if family.accepts(network):
            return family
    raise _unknown(argument, network)


def denoiser_of(network: Any, scheduler: Any) -> Denoiser:
    """How a diffusers network is called. RegionStyleError for a network or scheduler of another kind."""
    if not hasattr(network, "config"):
        raise _unknown("unet", network)
    return family_of(network, argument="unet").denoiser(network, scheduler)


def family_in_folder(config: Mapping[str, Any]) -> ModelFamily | None:
    """The family whose network has this diffusers configuration, as saved in config.json; None for another one."""
    return next((family for family in _families if family.in_folder(config)), None)


def comfy_schedule_of(sampling: Any) -> tuple[Schedule, str] | None:
    """Noise levels and prediction of a ComfyUI sampling object; None where no family knows it."""
    answers = (family.comfy_schedule(sampling) for family in _families)
    return next((answer for answer in answers if answer is not None), None)


def comfy_extras_of(model: Any) -> tuple[str, ...]:
    """Which `Extras` a ComfyUI model (in `comfy.model_base`) reads."""
    owners = {name: family for family in _families for name in family.comfy_models}
    family = next((owners[name] for name in class_names(model) if name in owners), None)
    return family.comfy_extras(model) if family else ()


def comfy_native_size(config: Any) -> int:
    """Side in pixels that a ComfyUI configuration (in `comfy.supported_models`) was trained at."""
    sizes = {name: side for family in _families for name, side in family.comfy_sizes.items()}
    return next((sizes[name] for name in class_names(config) if name in sizes), ModelFamily.native_size)


def comfy_text_layout(encoders: tuple[str, ...]) -> tuple[str, ...] | None:
    """Which of ComfyUI's text encoders (sorted names) have their tokens along the token axis; None: unknown ones."""
    layouts = (family.comfy_text.get(encoders) for family in _families)
    return next((layout for layout in layouts if layout), None)


def layer_name(underscored: str) -> str | None:
    """The name with dots of a layer in a LoRA file, given with underscores; None for a layer of no known family."""
    names = (family.layer_name(underscored) for family in _families)
    return next((name for name in names if name), None)


def usual_layer_name(name: str) -> str:
    """The name that `layer_name` knows, for names only some trainers write."""
    for family in _families:
        name = family.usual_name(name)
    return name


def family_of_layer(name: str) -> ModelFamily | None:
    """The first family that has a layer of this name (with dots, diffusers' or the original code's)."""
    underscored = name.replace(".", "_")
    return next((family for family in _families if family.layer_name(underscored) == name), None)


def file_slices(sizes: Mapping[str, tuple[int, int]], network: nn.Module | None) -> dict[str, list[LayerSlice]]:
    """Layers of a LoRA file (name with dots -> inputs, outputs) -> diffusers' layers in each; none for unknown ones.

    network: what the file was made for, if that is known.
    """
    by_family: dict[ModelFamily | None, dict[str, tuple[int, int]]] = {}
    for name, size in sizes.items():
        by_family.setdefault(family_of_layer(name), {})[name] = size
    slices: dict[str, list[LayerSlice]] = {name: [] for name in sizes}
    for family, own in by_family.items():
        slices.update(family.file_slices(own, network) if family else {})
    return slices


def _unknown(argument: str, network: Any) -> Exception:
    known = "; ".join(f"{'/'.join(family.versions)} ({family.network_classes()})" for family in _families)
    got = f"{type(network).__name__}, of another family"
    return wrong_input(argument, got, known, "Load a model of that kind.")
