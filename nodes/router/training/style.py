"""Training a style expert on pictures of the style: the noise predictor's own error is what is minimised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...engine.predictor.base import NoisePredictor
from ...engine.training.lora_trainer import LoraTrainer, joined_texts, sample_losses, training_times
from ...engine.training.settings import TrainSettings
from .examples import Draw, Examples


class StyleTrainer(LoraTrainer[Draw]):
    """The state of one training; see `LoraTrainer`."""

    def __init__(
        self, predictor: NoisePredictor, parameters: Iterable[nn.Parameter], examples: Examples, settings: TrainSettings
    ) -> None:
        super().__init__(predictor, parameters, settings, examples.latents[0][0].numel())
        self.examples = examples

    def _draw(self, number: int) -> Draw:
        return self.examples.draw(self.settings.seed, number)

    def _parts(self, draws: Sequence[Draw], size: int) -> list[list[Draw]]:
        """At most `size` samples each, with prompts of one length and latents of one shape."""
        by_shape: dict[object, list[Draw]] = {}
        for draw in draws:
            by_shape.setdefault(self.examples.texts[draw.picture].states.shape, []).append(draw)
        return [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]

    def _losses(self, part: Sequence[Draw]) -> Tensor:
        device = self.predictor.host.device
        x0, eps = (torch.stack([getattr(d, name) for d in part]).to(device) for name in ("latent", "noise"))
        t = training_times(self.predictor.predicts, [draw.timestep for draw in part]).to(device)
        text = joined_texts([self.examples.texts[draw.picture] for draw in part])
        prediction = self.predictor.predict(self.predictor.add_noise(x0, eps, t), t, text)
        return sample_losses(self.predictor.predicts, prediction, x0, eps, *self.predictor.alpha_sigma(t))
