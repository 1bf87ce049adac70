"""What training an expert on ComfyUI's MODEL shares: its name, the MODEL it is trained on, and its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.comfy import attach_to_comfy, attached_experts
from ..adapters.gates import Gates
from ..adapters.weights import ExpertWeights
from ..errors import wrong_input
from ..host.compiled import original_network
from ..host.training_state import state_path
from ..io.comfy_tensors import image_of
from ..io.curves import loss_panel
from ..io.safe_write import check_output, kept_if_done, only_one, reserved
from ..lora.expert import Expert
from ..lora.save import save_expert
from .run import Trained
from .state import unfinished

SUBFOLDER = "regionstyle"  # in models/loras for experts, in the output folder for states
CURVE = (40, 110, 200)  # its colour


@dataclass(frozen=True)
class TrainedOnComfy:
    """model: a clone with the expert on it; file: as ComfyUI lists it among its LoRAs; previews `[F,H,W,3]`,
    curve `[1,H,W,3]`; warning: "" for none."""

    model: Any
    file: str
    previews: Tensor
    curve: Tensor
    notice: str
    warning: str = ""


def lora_folder() -> Path:
    """Where experts are saved."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("loras")[0]) / SUBFOLDER


def check_unfinished(state: Path, name: str, resume: bool) -> None:
    """RegionStyleError for a training that was stopped and would be lost."""
    if not resume and unfinished(state):
        got = f"a training of {name!r} that was stopped ({state})"
        raise wrong_input("name", got, "no unfinished training of that name", "Switch resume on, or change the name.")


@contextmanager
def place_of_training(name: str, resume: bool) -> Iterator[Path]:
    """The state's file of the one training of a name at a time; where the expert will be saved is tried before.

    RegionStyleError where nothing can be written, for a second training of the name, and for a state that would be
    lost.
    """
    state = state_path(f"{name}.train.pt")
    check_output(lora_folder() / f"{name}.safetensors", name="name")
    with only_one(state.with_suffix(".lock"), f"a training of {name!r}"):
        check_unfinished(state, name, resume)
        yield state


def free_name(name: str, model: Any) -> str:
    """The expert's name on the MODEL, other than those of experts it has already."""
    taken = {expert.name for expert in attached_experts(model)}
    return next(n for n in (name, *(f"{name} {i}" for i in range(2, len(taken) + 3))) if n not in taken)


def trainable_on_comfy(
    model: Any, name: str, begin: Callable[[nn.Module, str], Expert]
) -> tuple[Any, ExpertWeights]:  # fmt: skip
    """A clone of the MODEL with a new expert on it, and the expert's weights, whose gradients are wanted.

    begin(network, name): makes it.
    """
    with torch.inference_mode(False):
        network, free = original_network(model.model.diffusion_model), free_name(name, model)
        weights = ExpertWeights(begin(network, free)).requires_grad_(True)
    return attach_to_comfy(model, [weights], Gates({free: 1.0})), weights


def with_trained(model: Any, expert: Expert, name: str) -> Any:
    """A clone of the MODEL with a trained expert on it, at strength 1."""
    with torch.inference_mode(False):
        expert = replace(expert, name=free_name(name, model))
        return attach_to_comfy(model, [expert], Gates({expert.name: 1.0}))


def saved_lora(expert: Expert, name: str) -> str:
    """Save an expert under a name that is free, as ComfyUI numbers pictures; returns it as ComfyUI lists it."""
    numbered = (f"{name}.safetensors" if i == 1 else f"{name}-{i}.safetensors" for i in count(1))
    with kept_if_done(reserved(lora_folder() / file for file in numbered)) as file:
        save_expert(replace(expert, name=name), file)
    return f"{SUBFOLDER}/{file.name}"


def delivered(model: Any, trained: Trained, name: str, title: str, notice: str, warning: str = "") -> TrainedOnComfy:
    """Save what was trained, and give the MODEL with it; title: of its curve; the notice ends with the file's name."""
    file = saved_lora(trained.expert, name)
    curve = image_of(loss_panel(title, trained.losses, CURVE, held_out=trained.validation)[None])
    frames = image_of(torch.stack(trained.frames))
    return TrainedOnComfy(with_trained(model, trained.expert, name), file, frames, curve, f"{notice}: {file}", warning)
