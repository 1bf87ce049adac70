"""A training loop that can be stopped at any moment and goes on where it was.

Time is the budget: the learning rate falls with the share of the budget that is used, so a stage always ends
annealed, on a fast machine after many steps and on a slow one after few.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...engine.io.training_state import read_state_file, write_state

log = logging.getLogger("regionstyle")


@dataclass
class Budget:
    """Wall clock minutes a stage may train in all its runs together, and when it writes its state."""

    minutes: float
    save_every: float = 60.0
    log_every: float = 30.0


@dataclass
class Trainer:
    """Owns one network's optimiser, its moving average and its state file.

    modules: trained together; loss: step number -> scalar loss (and numbers to log);
    state: file of the resumable state (`torch.save`, read back with `weights_only=True`).
    """

    modules: nn.ModuleDict
    loss: Callable[[int], tuple[Tensor, dict[str, float]]]
    state: Path
    budget: Budget
    lr: float = 1e-3
    weight_decay: float = 0.01
    average: float = 0.999
    cancelled: Callable[[], bool] = lambda: False
    report: Callable[[float, dict[str, float]], None] = lambda share, numbers: None
    step: int = 0
    seconds: float = 0.0
    averaged: nn.ModuleDict = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.99)
        )
        self.averaged = copy.deepcopy(self.modules).requires_grad_(False)
        if self.state.exists():
            self._load()

    def _load(self) -> None:
        kinds: dict[str, type | tuple[type, ...]] = {
            "modules": dict,
            "averaged": dict,
            "optimizer": dict,
            "step": int,
            "seconds": (int, float),
        }
        saved = read_state_file(self.state, kinds, "training state", "Delete it and begin anew.")
        self.modules.load_state_dict(saved["modules"])
        self.averaged.load_state_dict(saved["averaged"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        log.info("going on at step %d after %.1f minutes", self.step, self.seconds / 60)

    def save(self) -> None:
        """Write the state beside itself and move it into place, so that a stop never leaves half a file."""
        write_state(
            self.state,
            {
                "modules": self.modules.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
            },
        )

    def share(self) -> float:
        """Share of the budget used, 0..1."""
        return min(1.0, self.seconds / (60 * self.budget.minutes))

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / 100)
        return self.lr * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.share())))

    def _update(self) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        loss, numbers = self.loss(self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._move_average()
        return numbers | {"loss": float(loss.detach())}

    @torch.no_grad()
    def _move_average(self) -> None:
        decay = min(self.average, (self.step + 1) / (self.step + 10))
        for kept, now in zip(self.averaged.parameters(), self.modules.parameters(), strict=True):
            kept.lerp_(now, 1 - decay)
        for held, current in zip(self.averaged.buffers(), self.modules.buffers(), strict=True):
            held.copy_(current)

    def run(self) -> bool:
        """Train until the budget is used (True) or a cancel (False). The state is saved either way."""
        saved = logged = time.monotonic()
        mean: dict[str, float] = {}
        try:
            while self.share() < 1 and not self.cancelled():
                began = time.monotonic()
                for key, value in self._update().items():
                    mean[key] = mean.get(key, value) * 0.95 + value * 0.05
                self.step += 1
                self.seconds += time.monotonic() - began
                self.report(self.share(), mean)
                if time.monotonic() - logged > self.budget.log_every:
                    logged = time.monotonic()
                    log.info(
                        "step %d, %.0f%%: %s",
                        self.step,
                        100 * self.share(),
                        ", ".join(f"{k} {v:.4f}" for k, v in mean.items()),
                    )
                if time.monotonic() - saved > self.budget.save_every:
                    saved = time.monotonic()
                    self.save()
        finally:
            self.save()
        return self.share() >= 1
