"""What training an expert on ComfyUI's MODEL shares: its name, the MODEL it is trained on, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters.comfy import attach_to_comfy, attached_experts
from ..adapters.gates import Gates
from ..adapters.weights import ExpertWeights
from ..errors import wrong_input
from ..host.compiled import original_network
from ..io.safe_write import kept_if_done, reserved
from ..lora.expert import Expert
from ..lora.save import save_expert
from .state import unfinished

SUBFOLDER = "regionstyle"  # in models/loras for experts, in the output folder for states


def lora_folder() -> Path:
    """Where experts are saved."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("loras")[0]) / SUBFOLDER


def check_unfinished(state: Path, name: str, resume: bool) -> None:
    """RegionStyleError for a training that was stopped and would be lost."""
    if not resume and unfinished(state):
        got = f"a training of {name!r} that was stopped ({state})"
        raise wrong_input("name", got, "no unfinished training of that name", "Switch resume on, or change the name.")


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
