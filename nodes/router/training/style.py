"""Training one style expert: plain LoRA (Hu et al., arXiv:2106.09685) on what a network was trained to predict.

One loop for both hosts: the expert's tensors are attached to the network by the engine and trained in place, and the
noise predictor gives what the loss compares. One optimiser step is `StyleTrainer.step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ...engine.errors import RegionStyleError
from ...engine.host.memory import with_halving
from ...engine.predictor.base import NoisePredictor, Prediction, Text
from ...engine.predictor.schedule import like
from ..settings import TrainSettings
from .examples import Draw, Examples

GRADIENT_NORM = 1.0
WEIGHT_DECAY = 0.01
FINAL_RATE = 0.1  # share of the learning rate that the cosine ends at


def sample_losses(kind: str, prediction: Prediction, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Squared error per sample `[B]`, in what the network predicts: noise, v, or the flow's velocity.

    kind: `NoisePredictor.predicts`; x0, eps: the truth `[B,C,h,w]`; alpha, sigma `[B]`. The errors of v and of the
    flow follow from those of noise and clean latent without dividing by either: with a prediction error d of v =
    alpha eps - sigma x0 or of eps - x0, these two are alpha d and -sigma d, so their squares sum to
    (alpha^2 + sigma^2) d^2.
    """
    error = (prediction.eps - eps).square()
    if kind != "eps":
        error = (error + (prediction.denoised - x0).square()) / like(alpha.square() + sigma.square(), x0)
    return error.flatten(1).mean(1)


class StyleTrainer:
    """The state of one training. Use inside `predictor.gradients()`, with the expert attached and switched on.

    parameters: the expert's; done: optimiser steps so far; losses: of each; updating: in the midst of a change of the
    parameters, where they must not be saved.
    """

    def __init__(
        self, predictor: NoisePredictor, parameters: Iterable[nn.Parameter], examples: Examples, settings: TrainSettings
    ) -> None:
        self.predictor, self.parameters, self.examples = predictor, list(parameters), examples
        self.settings, self.done, self.updating = settings, 0, False
        self.losses: list[float] = []
        self.optimizer = torch.optim.AdamW(self.parameters, lr=settings.rate, weight_decay=WEIGHT_DECAY)
        # Keeps gradients in the range of half precision; a power of two changes nothing but the exponent.
        self.scale = 2.0 ** round(math.log2(examples.latents[0][0].numel()))
        self.at_once = -(-settings.batch // settings.accumulate)

    def step(self) -> float:
        """One optimiser step; returns its loss. When memory runs out, fewer samples are taken at once from then on.

        RegionStyleError when loss or gradients are not finite, or there is no room for one sample.
        """
        first = self.done * self.settings.batch
        draws = [self.examples.draw(self.settings.seed, first + offset) for offset in range(self.settings.batch)]
        loss = with_halving(
            lambda size: self._accumulated(draws, size), self.at_once, host=self.predictor.host, name="batch"
        )
        self._update()
        self.losses.append(loss)
        return loss

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.parameters, GRADIENT_NORM)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.updating = True
        self.optimizer.step()
        self.done += 1
        self.updating = False
        self.optimizer.zero_grad(set_to_none=True)

    def _rate(self) -> float:
        warm = min(1.0, (self.done + 1) / (self.settings.warmup + 1))
        falling = 0.5 * (1 + math.cos(math.pi * min(1.0, self.done / self.settings.steps)))
        return self.settings.rate * warm * (FINAL_RATE + (1 - FINAL_RATE) * falling)

    def _accumulated(self, draws: Sequence[Draw], size: int) -> float:
        """Set the gradients of the mean loss, `size` samples at once; returns that loss."""
        while True:
            loss, gradients = self._summed(draws, size)
            if not math.isfinite(loss):
                raise RegionStyleError(
                    f"training: got a loss of {loss} at step {self.done + 1}, expected a finite one. Lower the "
                    "learning rate, or load the model in a wider number format."
                )
            if all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
                break
            self._lower_scale()
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient / (self.scale * len(draws))
        self.at_once = size
        return loss / len(draws)

    def _lower_scale(self) -> None:
        if self.scale <= 1:
            raise RegionStyleError(
                f"training: got gradients beyond the number format at step {self.done + 1}, expected finite ones. "
                "Load the model in a wider number format (bfloat16 or float32)."
            )
        self.scale /= 2

    def _summed(self, draws: Sequence[Draw], size: int) -> tuple[float, list[Tensor]]:
        """The sum of all samples' losses, and its gradients times the scale."""
        total, sums = 0.0, [torch.zeros_like(parameter) for parameter in self.parameters]
        for part in self._parts(draws, size):
            loss = self._losses(part).sum()
            gradients = torch.autograd.grad(loss * self.scale, self.parameters)
            for whole, gradient in zip(sums, gradients, strict=True):
                whole += gradient
            total += float(loss.detach())
        return total, sums

    def _parts(self, draws: Sequence[Draw], size: int) -> list[list[Draw]]:
        """At most `size` samples each, with prompts of one length and latents of one shape."""
        by_shape: dict[object, list[Draw]] = {}
        for draw in draws:
            by_shape.setdefault(self.examples.texts[draw.picture].states.shape, []).append(draw)
        return [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]

    def _losses(self, part: Sequence[Draw]) -> Tensor:
        device = self.predictor.host.device
        x0, eps = (torch.stack([getattr(d, name) for d in part]).to(device) for name in ("latent", "noise"))
        t = torch.tensor([draw.timestep for draw in part], device=device) / 1000
        text = _joined([self.examples.texts[draw.picture] for draw in part])
        prediction = self.predictor.predict(self.predictor.add_noise(x0, eps, t), t, text)
        return sample_losses(self.predictor.predicts, prediction, x0, eps, *self.predictor.alpha_sigma(t))


def _joined(texts: Sequence[Text]) -> Text:
    """One batch of prompts; a single one where all are the same."""
    if all(text is texts[0] for text in texts):
        return texts[0]
    whole = texts[0]
    for text in texts[1:]:
        whole = whole + text
    return whole
