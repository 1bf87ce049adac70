"""A whole training: steps, previews, progress, cancel, and the state that it goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..adapters.weights import ExpertWeights
from ..io.training_state import SAVE_EVERY, check_finite
from ..lora.expert import Expert
from ..predictor.base import NoisePredictor, Text
from ..predictor.sampling import ddim, partial_times
from .lora_trainer import LoraTrainer
from .state import StateFile

PREVIEW_STEPS = 12
PREVIEW_GUIDANCE = 4.0
Shown = Callable[[int, Tensor], None]
Draw = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Trained:
    """expert: as it is now, float32; losses: of every step since the first; frames: previews `[3,H,W]` of this run;
    validation: (steps done, loss on what is held out)."""

    expert: Expert
    losses: list[float]
    frames: list[Tensor] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Preview:
    """Draws the same picture again and again from the same noise: what the expert has learnt so far.

    text, negative: one prompt each; side: in latent cells; start `[C,h,w]`, strength: a latent that is redrawn by so
    much, 0..1, instead of a picture from noise alone.
    """

    predictor: NoisePredictor
    text: Text
    negative: Text
    side: int
    seed: int
    start: Tensor | None = None
    strength: float = 1.0

    def draw(self) -> Tensor:
        """`[3,H,W]` in 0..1, on the CPU; can be cancelled at every sampling step."""
        predictor = self.predictor
        shape = (1, predictor.latent_channels, self.side, self.side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)).to(predictor.host.device)
        times = partial_times(self.strength, PREVIEW_STEPS)
        with torch.no_grad():
            denoised = ddim(
                predictor,
                noise if self.start is None else predictor.add_noise(self.start[None].to(noise), noise, times[0]),
                times,
                self.text,
                negative=self.negative,
                cfg=PREVIEW_GUIDANCE,
                on_step=lambda index, prediction: predictor.host.check(),
            )
            return predictor.decode(denoised)[0].float().cpu()


def train_lora(
    trainer: LoraTrainer[Any],
    weights: ExpertWeights,
    state: StateFile,
    draw: Draw,
    *,
    resume: bool = False,
    shown: Shown = lambda step, frame: None,
) -> Trained:
    """Train an attached expert, switched on and with gradients wanted, to the end. Call it where gradients are allowed.

    draw: makes a preview `[3,H,W]`; resume: go on from the state file; shown(step, preview) is called for every one.
    The loss on what is held out is measured before the first step and at every preview.
    Progress is reported and cancel looked for at every step; the state is saved at previews, every few seconds, and in
    any case at the end, also when cancelled. Of several processes the first shows and saves. RegionStyleError for a
    state of another training, and for one that diverges: its state is the last good one.
    """
    first, steps = trainer.workers.first, trainer.settings.steps
    progress, frames = trainer.predictor.host.progress(steps, "training"), []
    if resume:
        state.load(trainer)
    if trainer.due:  # before the first step, or where a stop came before the measurement
        trainer.validate()
    try:
        saved = time.monotonic()
        while trainer.done < steps:
            with trainer.predictor.checkpointed() if trainer.settings.checkpointing else nullcontext():
                trainer.step()
            check_finite(trainer.parameters, trainer.losses[-1:], trainer.done, state.kept)
            if first and time.monotonic() - saved > SAVE_EVERY:
                state.save(trainer)
                saved = time.monotonic()
            if trainer.due:
                trainer.validate()
            frame = _due(trainer, draw, state) if first else None
            if frame is not None:
                frames.append(frame)
                shown(trainer.done, frame)
            progress.update(trainer.done, frame)
    finally:
        if first and not trainer.updating:
            state.save(trainer)
    return Trained(weights.expert(), trainer.losses, frames or ([draw()] if first else []), trainer.validation)


def _due(trainer: LoraTrainer[Any], draw: Draw, state: StateFile) -> Tensor | None:
    """Now and then, and at the end: the state saved, and a picture."""
    if not trainer.due:
        return None
    state.save(trainer)
    return draw()
