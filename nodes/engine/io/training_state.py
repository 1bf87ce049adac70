"""The state files that trainings go on from: written whole or not at all, checked when they are read.

A file is a table of plain values and tensors, `torch.save`d and read with `weights_only=True`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RegionStyleError, wrong_input
from .safe_write import replacing

QUANTISED = ("qmap", "absmax")  # tables of bitsandbytes' moments in 8 bits, of no parameter's shape
SAVE_EVERY = 15.0  # seconds between two states, at most by so much and one step


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state. RegionStyleError when it cannot be written; the one before is left then."""
    with replacing(path, "training state") as part:
        torch.save(dict(state), part)


def read_state_file(path: Path, kinds: Mapping[str, type | tuple[type, ...]], name: str, remedy: str) -> dict[str, Any]:
    """A state whose entries are of the kinds given.

    name: what errors call it. RegionStyleError in one sentence for a file that is missing, damaged, lacks entries, or
    holds numbers that are none.
    """
    if not path.is_file():
        accepts = "the state of a training that was stopped"
        raise wrong_input(name, f"no file {path}", accepts, "Begin anew: without resume.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever it meets in a damaged file
        raise damaged_state(path, f"which cannot be read ({type(error).__name__})", name, remedy) from error
    if not isinstance(state, dict):
        raise damaged_state(path, f"which holds a {type(state).__name__}", name, remedy)
    wrong = [key for key, kind in kinds.items() if key not in state or not isinstance(state[key], kind)]
    if wrong:
        raise damaged_state(path, f"which lacks {', '.join(wrong)}", name, remedy)
    if not finite(state):
        raise damaged_state(path, "which holds NaN or infinity", name, remedy)
    return state


def damaged_state(path: Path, how: str, name: str, remedy: str) -> RegionStyleError:
    """The error for a state that cannot be used."""
    return wrong_input(name, f"{path}, {how}", "a state of this program", remedy)


@contextmanager
def restoring(path: Path, name: str, remedy: str) -> Any:
    """A block that puts a state's values into place; what torch raises for values that do not fit becomes one error."""
    try:
        yield
    except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, RegionStyleError):
            raise
        raise damaged_state(path, f"whose values do not fit ({type(error).__name__})", name, remedy) from error


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Load an optimiser's state. ValueError when its moments have other shapes than the parameters.

    How fast it learns and the like stays as this training asked for it, whatever the file says.
    """
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(saved))
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update(own)
    for parameter, moments in optimizer.state.items():
        for name, value in moments.items():
            if name.startswith(QUANTISED) or not isinstance(value, Tensor) or value.numel() <= 1:
                continue
            if value.shape != parameter.shape:
                raise ValueError("moments of another shape")


def finite(value: Any) -> bool:
    """Whether all numbers in a value are finite, in tables, lists and tensors too."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, Mapping):
        return all(finite(each) for each in value.values())
    if isinstance(value, list | tuple):
        return all(finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)


def check_finite(parameters: Iterable[Tensor], losses: Iterable[float], step: int, kept: Callable[[], str]) -> None:
    """RegionStyleError when a training has left the numbers: it cannot come back. kept: what to say of its state."""
    losses = list(losses)
    bad = next((loss for loss in losses if not math.isfinite(loss)), None)
    norms = torch._foreach_norm([parameter.detach() for parameter in parameters])  # together: one wait for a GPU
    if bad is None and bool(torch.stack([norm.float() for norm in norms]).isfinite().all()):
        return
    got = "weights that are no numbers" if bad is None else f"a loss of {bad}"
    raise RegionStyleError(
        f"training: got {got} at step {step}, expected finite ones. It has diverged: lower the learning rate, or load "
        f"the model in a wider number format.{kept()}"
    )
