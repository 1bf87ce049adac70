"""A whole training of a style expert on encoded pictures."""

from __future__ import annotations

from ...engine.adapters.weights import ExpertWeights
from ...engine.predictor.base import NoisePredictor
from ...engine.training.run import Preview, Shown, Trained, train_lora
from ...engine.training.settings import TrainSettings
from ...engine.training.state import StateFile
from .examples import Examples
from .style import StyleTrainer


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
    """Train an attached expert, switched on and with gradients wanted, on encoded pictures; see `train_lora`."""
    side = examples.latents[0].shape[-1]
    preview = Preview(predictor, examples.texts[0], examples.empty, side, settings.seed)
    with predictor.gradients():
        trainer = StyleTrainer(predictor, weights.parameters(), examples, settings)
        return train_lora(trainer, weights, state, preview.draw, resume=resume, shown=shown)
