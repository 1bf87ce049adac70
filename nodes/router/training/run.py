"""A whole training: steps, previews, progress, cancel, and the state that it goes on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...engine.adapters.weights import ExpertWeights
from ...engine.io.training_state import SAVE_EVERY, check_finite
from ...engine.lora.expert import Expert
from ...engine.predictor.base import NoisePredictor, Text
from ...engine.predictor.sampling import ddim, partial_times
from ..settings import TrainSettings
from .examples import Examples
from .state import StateFile
from .style import StyleTrainer

PREVIEW_STEPS = 12
PREVIEW_GUIDANCE = 4.0
Shown = Callable[[int, Tensor], None]


@dataclass(frozen=True, eq=False)
class Trained:
    """expert: as it is now, float32; losses: of every step since the first; frames: previews `[3,H,W]` of this run."""

    expert: Expert
    losses: list[float]
    frames: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Preview:
    """Draws the same picture again and again from the same noise: what the expert has learnt so far.

    text, negative: one prompt each; side: in latent cells.
    """

    predictor: NoisePredictor
    text: Text
    negative: Text
    side: int
    seed: int

    def draw(self) -> Tensor:
        """`[3,H,W]` in 0..1, on the CPU; can be cancelled at every sampling step."""
        predictor = self.predictor
        shape = (1, predictor.latent_channels, self.side, self.side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed)).to(predictor.host.device)
        with torch.no_grad():
            denoised = ddim(
                predictor,
                noise,
                partial_times(1.0, PREVIEW_STEPS),
                self.text,
                negative=self.negative,
                cfg=PREVIEW_GUIDANCE,
                on_step=lambda index, prediction: predictor.host.check(),
            )
            return predictor.decode(denoised)[0].float().cpu()


def train_style(
    predictor: NoisePredictor,
    weights: ExpertWeights,
    examples: Examples,
    settings: TrainSettings,
    state: StateFile,
    *,
    resume: bool = False,
    shown: Shown = lambda step, frame: None,
) -> Trained:
    """Train an attached expert, switched on and with gradients wanted, on encoded pictures.

    resume: go on from the state file; shown(step, preview) is called for every preview. Progress is reported and
    cancel looked for at every step; the state is saved at previews, every few seconds, and in any case at the end, also
    when cancelled. RegionStyleError for a state of another training, and for one that diverges: its state is the last
    good one.
    """
    progress = predictor.host.progress(settings.steps, "training")
    side = examples.latents[0].shape[-1]
    preview = Preview(predictor, examples.texts[0], examples.empty, side, settings.seed)
    frames: list[Tensor] = []
    with predictor.gradients():
        trainer = StyleTrainer(predictor, weights.parameters(), examples, settings)
        if resume:
            state.load(trainer)
        try:
            saved = time.monotonic()
            while trainer.done < settings.steps:
                trainer.step()
                check_finite(trainer.parameters, trainer.losses[-1:], trainer.done, state.kept)
                if time.monotonic() - saved > SAVE_EVERY:
                    state.save(trainer)
                    saved = time.monotonic()
                frame = _due(trainer, preview, state)
                if frame is not None:
                    frames.append(frame)
                    shown(trainer.done, frame)
                progress.update(trainer.done, frame)
        finally:
            if not trainer.updating:
                state.save(trainer)
        return Trained(weights.expert(), trainer.losses, frames or [preview.draw()])


def _due(trainer: StyleTrainer, preview: Preview, state: StateFile) -> Tensor | None:
    """Now and then, and at the end: the state saved, and a picture."""
    settings = trainer.settings
    if trainer.done % settings.preview_every and trainer.done != settings.steps:
        return None
    state.save(trainer)
    return preview.draw()
