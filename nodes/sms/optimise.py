"""The optimiser loop of SMS: the latent follows the style's score, the fake predictor follows the latent.

One iteration is `StyleMatcher.step`; what it asks of the predictors is in `score.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..engine.adapters.gates import Gate
from ..engine.errors import wrong_input
from ..engine.host.memory import BatchSlice, in_parts
from ..engine.predictor.base import NoisePredictor
from .schedule import rate_share
from .score import BaseModel, Prompts, StyleScore
from .settings import Kind, SmsSettings

__all__ = ["BaseModel", "History", "Prompts", "SmsSettings", "StyleMatcher"]


@dataclass
class History:
    """What happened, one entry per iteration: mean losses of the pictures, mean |R * gradient| / w_t, timesteps."""

    style: list[float] = field(default_factory=list)
    content: list[float] = field(default_factory=list)
    fake: list[float] = field(default_factory=list)
    movement: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


class StyleMatcher:
    """The state of one run on a batch of pictures. Use inside `predictor.gradients()`, once per run.

    latent: the result so far `[B,C,h,w]`; valid at any moment, also after a cancel.
    """

    def __init__(
        self,
        predictor: NoisePredictor,
        source: Tensor,
        prompts: Prompts,
        style: Mapping[str, Gate],
        fake: Sequence[nn.Parameter],
        settings: SmsSettings,
        mask: Tensor | None = None,
        base: BaseModel | None = None,
        start: Tensor | None = None,
    ) -> None:
        """source `[B,C,h,w]`: clean latents; style: gates of the attached style experts; fake: the parameters of the
        attached `init_fake`; mask `[B or 1,1,h,w]` in 0..1: where anything may change (None: everywhere); base: where
        real and fake predict, the fake expert on it (None: on `predictor`); start: latents to begin from (None: the
        source's).

        RegionStyleError without a style expert, for a mask of another size, or for a base with other latents.
        """
        if mask is not None and (mask.ndim != 4 or mask.shape[-2:] != source.shape[-2:]):
            accepts = f"[B or 1,1,{source.shape[-2]},{source.shape[-1]}]"
            raise wrong_input("mask", list(mask.shape), accepts, "Resize the mask to the latent's size.")
        self.predictor, self.source = predictor, source.detach()
        self._score = StyleScore(predictor, prompts, style, settings, base)
        self.settings, self.mask = settings, mask
        self.go_on(History(), 0)
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._target = nn.Parameter((self.source if start is None else start.detach()).clone())
        self._fake = list(fake)
        self._optimizer = torch.optim.AdamW([self._target], lr=settings.rate, weight_decay=0.01)
        self._fake_optimizer = torch.optim.AdamW(self._fake, lr=settings.fake_rate, weight_decay=0.0)

    def go_on(self, history: History, iteration: int) -> None:
        """What comes is written at the end of a history, and counted from an iteration."""
        self.history, self.iteration, self._begun = history, iteration, len(history.movement)

    @property
    def latent(self) -> Tensor:
        return self._target.detach()

    @property
    def settled(self) -> bool:
        """Whether the style's pull has fallen below the tolerance since this matcher began."""
        recent = self.history.movement[self._begun :][-self.settings.window :]
        return len(recent) == self.settings.window and sum(recent) / len(recent) < self.settings.tolerance

    def step(self) -> None:
        """One iteration: style gradient, relevance and spectrum move the latent; then the fake predictor follows."""
        self._latent_step(*self._draw(self.settings.schedule))
        self._fake_step(*self._draw("uniform"))
        self.iteration += 1

    def _draw(self, kind: Kind) -> tuple[Tensor, Tensor]:
        return self._score.draw(kind, self.iteration / self.settings.iterations, self.source, self._generator)

    def _latent_step(self, times: Tensor, noise: Tensor) -> None:
        """The latent follows the style. The mask limits what may move; outside it the latent is put back."""
        losses = self._score.losses(self._target, self.source, times, noise, self.mask)
        self._optimizer.param_groups[0]["lr"] = self.settings.rate * rate_share(
            self.iteration, self.settings.iterations
        )
        self._optimizer.zero_grad(set_to_none=True)
        (losses.style + losses.content).sum().backward()
        self._optimizer.step()
        self._keep_outside()
        self._note(style=losses.style, content=losses.content, movement=losses.movement, times=times)

    @torch.no_grad()
    def _keep_outside(self) -> None:
        """The latent outside the mask is the source's own."""
        if self.mask is not None:
            self._target.copy_(torch.where(self.mask.to(self._target) > 0, self._target, self.source))

    def _fake_step(self, times: Tensor, noise: Tensor) -> None:
        """One training step of the fake predictor on the latent as it is now.

        Where memory is short the gradients of fewer pictures at once are summed; of tiles always one at a time.
        """

        def learn(part: BatchSlice) -> Tensor:
            if part.start == 0:
                self._fake_optimizer.zero_grad(set_to_none=True)
            entries = part.rows
            total = torch.zeros(part.stop - part.start)
            for error in self._score.fake_errors(self.latent[entries], times[entries], noise[entries], part):
                (error.mean() * (len(error) / part.total)).backward()
                total = total.to(error) + error.detach()
            return total

        losses = in_parts(learn, len(self.source), host=self.predictor.host, name="pictures")
        self._fake_optimizer.step()
        self._note(fake=torch.cat(losses))

    def _note(self, **values: Tensor) -> None:
        for name, value in values.items():
            number = float(value.detach().double().mean())
            if not math.isfinite(number):
                got = f"{name} of {number} at iteration {self.iteration + 1}"
                raise wrong_input("SMS", got, "finite numbers", "It has diverged: lower the learning rate.")
            getattr(self.history, name).append(number)
