"""Training one expert: plain LoRA (Hu et al., arXiv:2106.09685), whatever its losses are.

One loop for both hosts: the expert's tensors are attached to the network by the engine and trained in place. What is
trained on, and what is minimised, is a subclass. One optimiser step is `LoraTrainer.step`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ..errors import RegionStyleError
from ..host.memory import with_halving
from ..host.workers import ALONE, Workers
from ..predictor.base import NoisePredictor, Prediction, Text
from ..predictor.schedule import TRAINED_STEPS, FlowSchedule, like
from .settings import TrainSettings

GRADIENT_NORM = 1.0
WEIGHT_DECAY = 0.01
FINAL_RATE = 0.1  # share of the learning rate that the cosine ends at
Sample = TypeVar("Sample")


def sample_errors(kind: str, prediction: Prediction, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Squared error at every place `[B,C,h,w]`, in what the network predicts: noise, v, or the flow's velocity.

    kind: `NoisePredictor.predicts`; x0, eps: the truth `[B,C,h,w]`; alpha, sigma `[B]`. The errors of v and of the
    flow follow from those of noise and clean latent without dividing by either: with a prediction error d of v =
    alpha eps - sigma x0 or of eps - x0, these two are alpha d and -sigma d, so their squares sum to
    (alpha^2 + sigma^2) d^2.
    """
    error = (prediction.eps - eps).square()
    if kind != "eps":
        error = (error + (prediction.denoised - x0).square()) / like(alpha.square() + sigma.square(), x0)
    return error


def sample_losses(kind: str, prediction: Prediction, x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The mean of `sample_errors` over each sample, `[B]`."""
    return sample_errors(kind, prediction, x0, eps, alpha, sigma).flatten(1).mean(1)


def training_times(kind: str, timesteps: Sequence[int]) -> Tensor:
    """t `[n]` of timesteps 0..999 drawn evenly: of noise and v networks' own table, or of the flow's levels 0.001 to 1.

    kind: `NoisePredictor.predicts`. Flow networks are trained at all levels alike, and sampled from pure noise, whereas
    evenly drawn t would stop at 0.936 (`FlowSchedule`). Levels below 0.028 count as that.
    """
    drawn = torch.tensor(timesteps)
    if kind != "flow":
        return drawn / TRAINED_STEPS
    return FlowSchedule().time_of((drawn + 1) / TRAINED_STEPS).float()


def new_optimizer(name: str, parameters: Iterable[nn.Parameter], rate: float, decay: float) -> Any:
    """ "adamw", or "adamw8bit" of the package bitsandbytes. RegionStyleError where that is not installed."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise RegionStyleError(
            f"optimizer: got {name!r} without the package 'bitsandbytes', expected it beside this one. Install it with "
            "pip install bitsandbytes, or choose 'adamw'."
        ) from None
    return AdamW8bit(parameters, lr=rate, weight_decay=decay)


class LoraTrainer(ABC, Generic[Sample]):
    """The state of one training. Use inside `predictor.gradients()`, with the expert attached and switched on.

    parameters: the expert's; done: optimiser steps so far; losses: of each, over all processes; validation: (steps
    done, loss on what is held out) of every measurement; updating: in the midst of a change of the parameters, where
    they must not be saved.
    """

    decay = WEIGHT_DECAY

    def __init__(
        self,
        predictor: NoisePredictor,
        parameters: Iterable[nn.Parameter],
        settings: TrainSettings,
        numbers: int,
        *,
        optimizer: str = "adamw",
        workers: Workers = ALONE,
    ) -> None:
        """numbers: in one latent; workers: the processes that train together, each on samples of its own."""
        self.predictor, self.parameters = predictor, list(parameters)
        self.settings, self.workers, self.done, self.updating = settings, workers, 0, False
        self.losses: list[float] = []
        self.validation: list[tuple[int, float]] = []
        self.optimizer = new_optimizer(optimizer, self.parameters, settings.rate, self.decay)
        # Keeps gradients in the range of half precision; a power of two changes nothing but the exponent.
        self.scale = 2.0 ** round(math.log2(numbers))
        self.at_once = -(-settings.batch // settings.accumulate)

    @abstractmethod
    def _draw(self, number: int) -> Sample:
        """Sample `number` of the training, which follows from it and the seed alone."""

    @abstractmethod
    def _parts(self, draws: Sequence[Sample], size: int) -> list[list[Sample]]:
        """At most `size` samples each, that can run together."""

    @abstractmethod
    def _losses(self, part: Sequence[Sample]) -> Tensor:
        """The loss of each sample `[n]`."""

    def _around(self, part: Sequence[Sample]) -> AbstractContextManager[Any]:
        """A block around forward and backward pass: with checkpointing the latter runs layers again."""
        return nullcontext()

    def _held_out(self) -> Sequence[Sample]:
        """The samples that nothing is learnt from, the same at every measurement."""
        return ()

    @property
    def due(self) -> bool:
        """Whether this is a step after which the state is saved and a picture drawn: now and then, and the last."""
        return self.done % self.settings.preview_every == 0 or self.done == self.settings.steps

    def validate(self) -> None:
        """Measure the loss on what is held out, once after a step; every process measures a part of it.

        RegionStyleError where it is not finite.
        """
        held = self._held_out()
        if not held or (self.validation and self.validation[-1][0] == self.done):
            return
        own = held[self.workers.rank :: self.workers.count]
        total = with_halving(
            lambda size: self._measured(own, size), self.at_once, host=self.predictor.host, name="batch"
        )
        loss = self.workers.mean(total) * self.workers.count / len(held)
        if not math.isfinite(loss):
            raise RegionStyleError(
                f"training: got a loss of {loss} on what is held out at step {self.done}, expected a finite one. Lower "
                "the learning rate, or load the model in a wider number format."
            )
        self.validation.append((self.done, loss))

    @torch.no_grad()
    def _measured(self, draws: Sequence[Sample], size: int) -> float:
        """The sum of the losses, `size` samples at once; can be cancelled between any two parts."""
        total = 0.0
        for part in self._parts(draws, size):
            self.predictor.host.check()
            with self._around(part):
                total += float(self._losses(part).sum())
        return total

    def step(self) -> float:
        """One optimiser step; returns its loss. When memory runs out, fewer samples are taken at once from then on.

        RegionStyleError when loss or gradients are not finite, or there is no room for one sample.
        """
        first = (self.done * self.workers.count + self.workers.rank) * self.settings.batch
        draws = [self._draw(first + offset) for offset in range(self.settings.batch)]
        loss = with_halving(
            lambda size: self._accumulated(draws, size), self.at_once, host=self.predictor.host, name="batch"
        )
        self.workers.average(self.parameters)
        self._update()
        self.losses.append(self.workers.mean(loss))
        return self.losses[-1]

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

    def _accumulated(self, draws: Sequence[Sample], size: int) -> float:
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

    def _summed(self, draws: Sequence[Sample], size: int) -> tuple[float, list[Tensor]]:
        """The sum of all samples' losses, and its gradients times the scale."""
        total, sums = 0.0, [torch.zeros_like(parameter) for parameter in self.parameters]
        for part in self._parts(draws, size):
            with self._around(part):
                loss = self._losses(part).sum()
                gradients = torch.autograd.grad(loss * self.scale, self.parameters)
            for whole, gradient in zip(sums, gradients, strict=True):
                whole += gradient
            total += float(loss.detach())
        return total, sums


def joined_texts(texts: Sequence[Text]) -> Text:
    """One batch of prompts; a single one where all are the same."""
    if all(text is texts[0] for text in texts):
        return texts[0]
    whole = texts[0]
    for text in texts[1:]:
        whole = whole + text
    return whole
