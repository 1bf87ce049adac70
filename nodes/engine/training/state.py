"""The file that a training goes on from: what changes while training, and what must be the same to go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import wrong_input
from ..io.training_state import (
    damaged_state,
    finite,
    read_state_file,
    restore_optimizer,
    restoring,
    write_state,
)
from .lora_trainer import LoraTrainer
from .settings import TrainSettings

FORMAT = 1
ENTRIES: Mapping[str, type | tuple[type, ...]] = {
    "format": int, "facts": dict, "done": int, "steps": int, "losses": list, "scale": (int, float), "weights": list,
    "optimizer": dict,
}  # fmt: skip
REMEDY = "Delete it and begin anew: without resume."
Fact = str | int | float
# What may differ when a training goes on: how long it runs, and what does not change the result.
FREE = ("steps", "accumulate", "preview_every", "checkpointing")
# What states of earlier versions do not hold, as those versions had it.
SINCE: Mapping[str, Fact] = {"band": 0.0, "source": "hidden", "validation": 0}


def facts_of(settings: TrainSettings, pictures: str, **more: Fact) -> dict[str, Fact]:
    """What must be equal to go on; pictures: changes with any of them and with their words."""
    fixed = {name: value for name, value in vars(settings).items() if name not in FREE}
    return {**fixed, "pictures and captions": pictures, **more}


@dataclass(frozen=True)
class StateFile:
    """path: ends in .pt; facts: `facts_of` this training."""

    path: Path
    facts: Mapping[str, Fact]

    def save(self, trainer: LoraTrainer) -> None:
        """Write the state beside itself and move it into place, so that a stop never leaves half a file."""
        state = {
            "format": FORMAT,
            "facts": dict(self.facts),
            "done": trainer.done,
            "steps": trainer.settings.steps,
            "losses": list(trainer.losses),
            "validation": [list(each) for each in trainer.validation],
            "scale": trainer.scale,
            "weights": [parameter.detach().cpu() for parameter in trainer.parameters],
            "optimizer": trainer.optimizer.state_dict(),
        }
        if finite(state):  # a training that has diverged keeps its last good state
            write_state(self.path, state)

    def kept(self) -> str:
        """What a message says about the state that is left."""
        return f" Its last good state is {self.path}." if self.path.is_file() else ""

    def load(self, trainer: LoraTrainer) -> None:
        """Go on where the file stopped. RegionStyleError naming what differs from the training that wrote it."""
        saved = read_state(self.path)
        self._check(saved["facts"])
        shapes = [list(tensor.shape) for tensor in saved["weights"]]
        if shapes != [list(parameter.shape) for parameter in trainer.parameters]:
            raise self._other("layers of another model", "those of this model")
        with restoring(self.path, "resume", REMEDY):
            restore_optimizer(trainer.optimizer, saved["optimizer"])
            with torch.no_grad():
                for parameter, tensor in zip(trainer.parameters, saved["weights"], strict=True):
                    parameter.copy_(tensor)
            trainer.validation = [(int(done), float(loss)) for done, loss in saved.get("validation", [])]
        trainer.done, trainer.losses, trainer.scale = saved["done"], list(saved["losses"]), saved["scale"]

    def _check(self, saved: Mapping[str, Fact]) -> None:
        saved = {**{name: value for name, value in SINCE.items() if name in self.facts}, **saved}
        for name in {**saved, **self.facts}:
            if saved.get(name) != self.facts.get(name):
                long = name == "pictures and captions"
                got, now = ("others", "the same") if long else (saved.get(name), self.facts.get(name))
                raise self._other(f"{name} {got}", f"{name} {now}" if not long else now)

    def _other(self, got: object, accepts: object) -> Exception:
        remedy = "Use the settings of that training, or begin anew: without resume."
        return wrong_input(f"resume from {self.path.name}", got, str(accepts), remedy)


def read_state(path: Path) -> dict[str, Any]:
    """A state as it was saved. RegionStyleError for a file that is missing, damaged or of another kind."""
    state = read_state_file(path, ENTRIES, "resume", REMEDY)
    if state["format"] != FORMAT or not all(isinstance(tensor, torch.Tensor) for tensor in state["weights"]):
        raise damaged_state(path, "of another kind", "resume", REMEDY)
    return state


def unfinished(path: Path) -> bool:
    """Whether a training stopped before its end and left this file."""
    if not path.is_file():
        return False
    state = read_state(path)
    return bool(state["done"] < state["steps"])
