"""Training of the small harmoniser: composites of photographs and scenes, made anew for every step.

Everything a step draws follows from the seed and its number, so a training that was stopped goes on exactly.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....kernels import poisson_blend
from ...engine.io.training_state import SAVE_EVERY, check_finite, read_state_file, restoring, write_state
from ..data.composites import Scene, truth_and_mask
from ..data.jitter import Jitter, jittered, luma
from ..data.photographs import TRAINED, Photograph
from .look import Look, look, sides
from .network import SmallHarmonizerNetwork, new_network

log = logging.getLogger("regionstyle")
REMEDY = "Delete it and begin anew."
SIZE, GRID = 192, 96  # pixels of an example, and of what the network sees of it
KEPT = 0.998  # of the moving average, per step


@dataclass(frozen=True)
class HarmonizerTrainingSettings:
    """steps of `batch` examples; shares of them: untouched composites, Random Poisson Blending, a background that is
    another piece of the photograph (a reference), rendered scenes."""

    steps: int = 1000
    batch: int = 12
    rate: float = 2e-3
    untouched: float = 0.1
    poisson: float = 0.15
    elsewhere: float = 0.12
    scenes: float = 0.15
    seed: int = 0


@dataclass
class Examples:
    """A batch: composites and truths `[B,3,s,s]`, masks `[B,1,s,s]`; seam `[B,1,1,1]` 0 where the background is to
    be seen as a reference picture: turned over, without a border that tells anything."""

    composite: Tensor
    truth: Tensor
    mask: Tensor
    seam: Tensor


class ExampleSource:
    """Draws batches. scenes: rendered pictures with the mask of one thing, as many as there are."""

    def __init__(
        self, settings: HarmonizerTrainingSettings, scenes: Sequence[Scene] = (),
        photographs: Sequence[Photograph] = TRAINED, jitter: Jitter | None = None,
    ) -> None:  # fmt: skip
        self.settings, self.scenes, self.photographs, self.jitter = settings, scenes, photographs, jitter or Jitter()

    def draw(self, step: int) -> Examples:
        """The batch of a step."""
        random = torch.Generator().manual_seed((self.settings.seed * 1_000_003 + step) % 2**64)
        pairs = [self._pair(random) for _ in range(self.settings.batch)]
        truth, mask = torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])[:, None]
        truth = self._recoloured(truth, random)
        changed = jittered(truth, mask, random, self.jitter)
        kind = torch.rand(len(truth), 1, 1, 1, generator=random)
        blended = kind < self.settings.poisson
        if bool(blended.any()):
            changed = torch.where(blended, _poisson_blended(truth, mask, blended.flatten(), random), changed)
        changed = torch.where(kind > 1 - self.settings.untouched, truth, changed)
        seam = (torch.rand(len(truth), 1, 1, 1, generator=random) >= self.settings.elsewhere).float()
        return Examples(torch.where(mask > 0.5, changed, truth), truth, mask, seam)

    def _pair(self, random: torch.Generator) -> Scene:
        if self.scenes and float(torch.rand(1, generator=random)) < self.settings.scenes:
            picture, mask = self.scenes[int(torch.randint(len(self.scenes), (1,), generator=random))]
            picture = F.interpolate(picture[None], (SIZE, SIZE), mode="bilinear")[0]
            return picture, F.interpolate(mask[None, None], (SIZE, SIZE), mode="nearest")[0, 0]
        truth, mask, _, _ = truth_and_mask(self.photographs, SIZE, random)
        return truth, mask

    def _recoloured(self, truth: Tensor, random: torch.Generator) -> Tensor:
        """Truths in new colours as well: few photographs must stand for all the light there is."""
        gain = torch.exp2(0.7 * torch.rand(len(truth), 3, 1, 1, generator=random) - 0.35)
        colour = torch.exp2(1.2 * torch.rand(len(truth), 1, 1, 1, generator=random) - 0.6)
        grey = luma(truth)
        new = (gain * (grey + colour * (truth - grey))).clamp(0, 1)
        swapped = torch.stack([each[torch.randperm(3, generator=random)] for each in new])
        return torch.where(torch.rand(len(truth), 1, 1, 1, generator=random) < 0.3, swapped, new)


def _poisson_blended(truth: Tensor, mask: Tensor, chosen: Tensor, random: torch.Generator) -> Tensor:
    """Random Poisson Blending with another picture of the batch, turned over or not, at half the size, which is where
    its smooth change is made; strengths 0.4 to 1."""
    donor = truth.roll(1, 0)[chosen].flip(-1)
    source, region = truth[chosen], mask[chosen]
    half, light = (F.avg_pool2d(picture, 2) for picture in (source, donor))
    grown = F.max_pool2d(region, 4, 2, 1)
    change = F.interpolate(poisson_blend(half, light, grown, tol=1e-3) - half, source.shape[-2:], mode="bilinear")
    strength = 0.4 + 0.6 * torch.rand(len(source), 1, 1, 1, generator=random)
    result = truth.clone()
    result[chosen] = ((source + strength * change).clamp(0, 1) * 255).round() / 255
    return result


def seen_of(examples: Examples) -> Look:
    """The examples as the network sees them."""
    seen = look(examples.composite, examples.mask, (GRID, GRID))
    background = torch.where(examples.seam > 0, seen.background, seen.background.flip(-1))
    return replace(seen, background=background, seam=seen.seam * examples.seam)


def example_loss(answer: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Per example: the mean error over the foreground, absolute and squared; every foreground counts alike."""
    error = (answer - truth).abs()
    each = (error + 6 * error.square()).mean(1, keepdim=True) * mask
    return each.sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp_min(1e-3)


@dataclass
class HarmonizerTraining:
    """The state of one training. network: as trained so far; averaged: the moving average of its weights."""

    source: ExampleSource
    network: SmallHarmonizerNetwork = field(init=False)
    step: int = 0

    def __post_init__(self) -> None:
        settings = self.source.settings
        self.network = new_network(settings.seed)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=settings.rate, weight_decay=0.01)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)

    def update(self) -> float:
        """One step; its loss."""
        settings, examples = self.source.settings, self.source.draw(self.step)
        warm, done = min(1.0, (self.step + 1) / 100), self.step / settings.steps
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        self.optimizer.param_groups[0]["lr"] = settings.rate * warm * cosine
        seen = seen_of(examples)
        truth = sides(examples.truth, examples.mask, (GRID, GRID))[0]
        answer, mapped = self.network.both(seen)
        loss = (example_loss(answer, truth, seen.mask) + 0.3 * example_loss(mapped, truth, seen.mask)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.5)
        self.optimizer.step()
        self._average()
        self.step += 1
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        share = min(KEPT, (self.step + 1) / (self.step + 10))
        for kept, now in zip(self.averaged.parameters(), self.network.parameters(), strict=True):
            kept.lerp_(now, 1 - share)

    def state(self) -> dict[str, Any]:
        """Everything it needs to go on."""
        return {
            "step": self.step,
            "settings": vars(self.source.settings),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, path: Path) -> None:
        """Go on from a state file. RegionStyleError when it is damaged or of other settings."""
        from ...engine.errors import wrong_input

        kinds: dict[str, type | tuple[type, ...]] = {
            "step": int, "settings": dict, "network": dict, "averaged": dict, "optimizer": dict,
        }  # fmt: skip
        saved = read_state_file(path, kinds, "training state", REMEDY)
        if saved["settings"] != vars(self.source.settings):
            raise wrong_input("training state", f"{path}, of other settings", "those it began with", REMEDY)
        with restoring(path, "training state", REMEDY):
            for name in ("network", "averaged", "optimizer"):
                getattr(self, name).load_state_dict(saved[name])
            self.step = saved["step"]


def train(
    training: HarmonizerTraining, state: Path | None = None, cancelled: Callable[[], bool] = lambda: False,
    report: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> bool:  # fmt: skip
    """All steps that are left (True) or until cancelled (False). The state is saved at intervals and at the end."""
    if state is not None and state.is_file():
        training.restore(state)
    total, saved, mean = training.source.settings.steps, time.monotonic(), None
    try:
        while training.step < total and not cancelled():
            loss = training.update()
            check_finite(training.network.parameters(), [loss], training.step, lambda: "")
            mean = loss if mean is None else 0.98 * mean + 0.02 * loss
            report(training.step, total, mean)
            if state is not None and time.monotonic() - saved > 4 * SAVE_EVERY:
                saved = time.monotonic()
                write_state(state, training.state())
    finally:
        if state is not None:
            write_state(state, training.state())
    return training.step >= total
