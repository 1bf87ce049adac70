"""The file that a training goes on from: what changes while training, and what must be the same to go on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...engine.errors import wrong_input
from ..settings import TrainSettings
from .style import StyleTrainer

FORMAT = 1
Fact = str | int | float
# What may differ when a training goes on: how long it runs, and what does not change the result.
FREE = ("steps", "accumulate", "preview_every")


def facts_of(settings: TrainSettings, pictures: str, **more: Fact) -> dict[str, Fact]:
    """What must be equal to go on; pictures: `Examples.mark`."""
    fixed = {name: value for name, value in vars(settings).items() if name not in FREE}
    return {**fixed, "pictures and captions": pictures, **more}


@dataclass(frozen=True)
class StateFile:
    """path: ends in .pt; facts: `facts_of` this training."""

    path: Path
    facts: Mapping[str, Fact]

    def save(self, trainer: StyleTrainer) -> None:
        """Write the state beside itself and move it into place, so that a stop never leaves half a file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        state = {
            "format": FORMAT,
            "facts": dict(self.facts),
            "done": trainer.done,
            "steps": trainer.settings.steps,
            "losses": list(trainer.losses),
            "scale": trainer.scale,
            "weights": [parameter.detach().cpu() for parameter in trainer.parameters],
            "optimizer": trainer.optimizer.state_dict(),
        }
        torch.save(state, part)
        os.replace(part, self.path)

    def load(self, trainer: StyleTrainer) -> None:
        """Go on where the file stopped. RegionStyleError naming what differs from the training that wrote it."""
        saved = read_state(self.path)
        self._check(saved["facts"])
        shapes = [list(tensor.shape) for tensor in saved["weights"]]
        if shapes != [list(parameter.shape) for parameter in trainer.parameters]:
            raise self._other("layers of another model", "those of this model")
        with torch.no_grad():
            for parameter, tensor in zip(trainer.parameters, saved["weights"], strict=True):
                parameter.copy_(tensor)
        trainer.optimizer.load_state_dict(saved["optimizer"])
        trainer.done, trainer.losses, trainer.scale = saved["done"], list(saved["losses"]), saved["scale"]

    def _check(self, saved: Mapping[str, Fact]) -> None:
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
    if not path.is_file():
        accepts = "the state of a training that was stopped"
        raise wrong_input("resume", f"no file {path}", accepts, "Begin anew: without resume.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever it meets in a damaged file
        raise _damaged(path, type(error).__name__) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise _damaged(path, "of another kind")
    return state


def unfinished(path: Path) -> bool:
    """Whether a training stopped before its end and left this file."""
    if not path.is_file():
        return False
    state = read_state(path)
    return bool(state["done"] < state["steps"])


def _damaged(path: Path, how: str) -> Exception:
    remedy = "Delete it and begin anew: without resume."
    return wrong_input("resume", f"{path}, which cannot be read ({how})", "a state of this program", remedy)
