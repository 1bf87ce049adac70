"""A whole training of one stage: begin or go on from a saved state, train, show validation grids, keep the state.

Everything a step draws follows from the seed and the step's number, so a training that was stopped goes on exactly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...engine.host.workers import ALONE, Workers
from ...engine.io.training_state import (
    SAVE_EVERY,
    check_finite,
    finite,
    read_state_file,
    restore_optimizer,
    restoring,
    write_state,
)
from .examples import Example, draw_example, joined
from .pairs import Pairs, shuffled
from .settings import R2RTrainSettings
from .stages import TrainingStage
from .validation import validation_grid

ENTRIES: Mapping[str, type | tuple[type, ...]] = {
    "stage": str, "facts": dict, "done": int, "losses": list, "weights": list, "optimizer": dict,
}  # fmt: skip
REMEDY = "Delete it and begin anew: without resume."
FREE = ("steps", "epochs", "preview_every")  # may differ when a training goes on
SHARE = 20  # a state takes at most a twentieth of the time: those of large networks are gigabytes
OnGrid = Callable[[int, Tensor], None]  # steps done, `[3,H,W]` in 0..1


@dataclass(eq=False)
class StageTrainer:
    """The state of one training; `losses`: one per step."""

    stage: TrainingStage
    pairs: Pairs
    settings: R2RTrainSettings
    host: Host
    workers: Workers = ALONE
    done: int = 0
    losses: list[float] = field(default_factory=list)
    updating: bool = False

    def __post_init__(self) -> None:
        self.parameters = self.stage.parameters()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=self.settings.rate)
        self.total = self.settings.total(self.stage.name, len(self.pairs), self.workers.count)

    def step(self) -> None:
        """One step of the optimiser."""
        random = self._random()
        self.optimizer.zero_grad(set_to_none=True)
        with self._dropout(random):
            loss = sum(self._batch(number, random) for number in range(self.settings.batches(self.stage.name)))
        self.workers.average(self.parameters)
        self.updating = True
        self.optimizer.step()
        self.losses.append(float(loss))
        self.done += 1
        self.updating = False

    def _batch(self, number: int, random: torch.Generator) -> float:
        self.host.check()
        count = self.settings.batches(self.stage.name)
        first = ((self.done * count + number) * self.workers.count + self.workers.rank) * self.settings.batch
        batch = joined([self._example(first + i, random) for i in range(self.settings.batch)]).to(self.host.device)
        with self._precision():
            loss = self.stage.loss(batch, random) / count
        loss.backward()
        return float(loss.detach())

    def _example(self, number: int, random: torch.Generator) -> Example:
        """The number-th picture since the beginning: each epoch has an order of its own."""
        epoch, place = divmod(number, len(self.pairs))
        pair = self.pairs.all[shuffled(len(self.pairs), self.settings.seed, epoch)[place]]
        return draw_example(pair, self.settings.side(self.stage.name), random, hint=self.stage.hint)

    def _random(self) -> torch.Generator:
        seed = self.settings.seed * 1_000_003 + self.done + self.workers.rank * 1_000_000_007
        return torch.Generator().manual_seed(seed % 2**64)

    @contextmanager
    def _dropout(self, random: torch.Generator) -> Iterator[None]:
        """torch's own random numbers, which dropout draws, follow the step too; elsewhere they go on as before."""
        device = self.host.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(random.initial_seed())
            yield

    def _precision(self) -> Any:
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.host.device.type, getattr(torch, self.settings.precision))


@dataclass(frozen=True)
class StageState:
    """The file a training goes on from. facts: what must be the same then."""

    path: Path
    facts: Mapping[str, Any]

    @classmethod
    def of(cls, path: Path, trainer: StageTrainer, **more: Any) -> StageState:
        settings = {name: value for name, value in vars(trainer.settings).items() if name not in FREE}
        return cls(path, {**settings, "pictures": trainer.pairs.mark, "workers": trainer.workers.count, **more})

    def save(self, trainer: StageTrainer) -> None:
        """Whole or not at all; a training that has diverged keeps its last good state."""
        state = {
            "stage": trainer.stage.name, "facts": dict(self.facts), "done": trainer.done, "losses": trainer.losses,
            "weights": [parameter.detach().cpu() for parameter in trainer.parameters],
            "optimizer": trainer.optimizer.state_dict(),
        }  # fmt: skip
        if finite(state):
            write_state(self.path, state)

    def kept(self) -> str:
        """What a message says about the state that is left."""
        return f" Its last good state is {self.path}." if self.path.is_file() else ""

    def load(self, trainer: StageTrainer) -> None:
        """RegionStyleError for a file of another training, naming what differs."""
        saved = read_state_file(self.path, ENTRIES, "resume", REMEDY)
        self._check(saved, trainer)
        with restoring(self.path, "resume", REMEDY):
            restore_optimizer(trainer.optimizer, saved["optimizer"])
            with torch.no_grad():
                for parameter, value in zip(trainer.parameters, saved["weights"], strict=True):
                    parameter.copy_(value)
        trainer.done, trainer.losses = saved["done"], list(saved["losses"])

    def _check(self, saved: Mapping[str, Any], trainer: StageTrainer) -> None:
        told = {"stage": saved["stage"], **saved["facts"]}
        mine = {"stage": trainer.stage.name, **self.facts}
        differ = [f"{name} {told.get(name)}, not {value}" for name, value in mine.items() if told.get(name) != value]
        if differ:
            got = f"{self.path.name} of a training with {'; '.join(differ)}"
            raise wrong_input("resume", got, "one of the same settings", "Give them again, or begin anew.")


def train_stage(
    trainer: StageTrainer, state: StageState | None = None, *, resume: bool = False, validation: Pairs | None = None,
    on_grid: OnGrid | None = None,
) -> list[float]:  # fmt: skip
    """Train to the end; the networks of the stage are trained in place. Returns the losses.

    on_grid: who gets the grids, None: none are drawn; validation: their pictures (default: the first of the training).
    A cancel leaves the state saved.
    """
    networks = [trainer.stage.networks.vae, trainer.stage.networks.unet, trainer.stage.networks.controller]
    trainer.host.load(*(network for network in networks if network is not None))
    if resume and state is not None:
        state.load(trainer)
    _run(trainer, state if trainer.workers.first else None, validation or trainer.pairs, on_grid)
    return trainer.losses


def _run(trainer: StageTrainer, state: StageState | None, validation: Pairs, on_grid: OnGrid | None) -> None:
    progress = trainer.host.progress(trainer.total, f"training the {trainer.stage.name}")
    saver = _Saver(trainer, state)
    try:
        while trainer.done < trainer.total:
            trainer.step()
            check_finite(trainer.parameters, trainer.losses[-1:], trainer.done, saver.kept)
            grid = _grid(trainer, validation) if trainer.workers.first and on_grid is not None else None
            if grid is not None and on_grid is not None:
                on_grid(trainer.done, grid)
            saver.now_and_then(due=grid is not None)
            progress.update(trainer.done, grid)
    finally:
        if not trainer.updating:
            saver.save()


def _grid(trainer: StageTrainer, validation: Pairs) -> Tensor | None:
    if trainer.done % trainer.settings.preview_every and trainer.done != trainer.total:
        return None
    return validation_grid(trainer.stage, validation, trainer.settings.side(trainer.stage.name), trainer.host)


class _Saver:
    def __init__(self, trainer: StageTrainer, state: StageState | None) -> None:
        self._trainer, self._state = trainer, state
        self._last, self._took, self._saved = time.monotonic(), 0.0, -1

    def now_and_then(self, *, due: bool) -> None:
        passed = time.monotonic() - self._last
        if passed > max(SAVE_EVERY, SHARE * self._took) or (due and passed > SHARE * self._took):
            self.save()

    def save(self) -> None:
        if self._state is None or self._saved == self._trainer.done:
            return
        begun = time.monotonic()
        self._state.save(self._trainer)
        self._last, self._saved = time.monotonic(), self._trainer.done
        self._took = self._last - begun

    def kept(self) -> str:
        return "" if self._state is None else self._state.kept()
