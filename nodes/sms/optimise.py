"""The optimiser loop of SMS: the latent follows the style's score, the fake predictor follows the latent.

One iteration is `StyleMatcher.step`; the formulas are in `objective.py`, the timesteps in `schedule.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..engine.errors import wrong_input
from ..engine.gates import Gate, Gates
from ..engine.predictor import NoisePredictor, Text
from .fake import NAME
from .objective import fake_loss, guided_noise, relevance_map, spectrum_loss, style_gradient, style_loss
from .presets import REFERENCE, Preset
from .roles import Role, predict_roles
from .schedule import LARGEST, SMALLEST, Kind, draw_times, frequency_limit, squared_alpha, style_weight

INSTRUCTION = "Turn it into {style}"


@dataclass(frozen=True)
class SmsSettings:
    """How SMS runs; the defaults are the published ones.

    iterations: N; balance: weight of the spectrum term (None: the preset's; 0 switches it off, more keeps more of the
    content); guidance: None: the preset's; rate, fake_rate: learning rates of latent and fake predictor; relevance:
    whether the gradient is weighed by the relevance map; schedule: of the timesteps; lowest, highest: their range;
    seed; tolerance: stop early when the mean of |R * gradient| / w_t over `window` iterations falls below (0: never);
    preview_every: iterations between two previews.
    """

    preset: Preset = REFERENCE
    iterations: int = 500
    balance: float | None = None
    guidance: float | None = None
    rate: float = 0.1
    fake_rate: float = 1e-3
    relevance: bool = True
    schedule: Kind = "narrowing"
    lowest: int = SMALLEST
    highest: int = LARGEST
    seed: int = 0
    tolerance: float = 0.0
    window: int = 25
    preview_every: int = 50

    def __post_init__(self) -> None:
        if self.iterations < 2:
            # the first one has a learning rate of 0, as published: alone it would change nothing
            raise wrong_input("iterations", self.iterations, "2 or more", "The paper takes 500.")
        if self.preview_every < 1 or self.window < 1:
            got = f"{self.preview_every} and {self.window}"
            raise wrong_input("preview_every, window", got, "1 or more", "Correct them.")
        if not 3 <= self.lowest < self.highest <= 1000:
            got = f"{self.lowest}..{self.highest}"
            raise wrong_input("timesteps", got, "3 <= lowest < highest <= 1000", "The paper takes 20..500.")
        for name in ("rate", "fake_rate", "tolerance", "balance", "guidance"):
            if getattr(self, name) is not None and not getattr(self, name) >= 0:
                raise wrong_input(name, getattr(self, name), "0 or more", "Correct it.")


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded prompts: 1 or B each. style: read by style and fake predictor; edit: the instruction to restyle."""

    style: Text
    edit: Text
    empty: Text

    @classmethod
    def of(cls, predictor: NoisePredictor, captions: Sequence[str], style: str, preset: Preset) -> Prompts:
        """Encode them for captions of the pictures (one, or one each) and the style's words."""
        told = [
            f"{style}, {caption}" if preset.style_in_prompt and caption else caption or style for caption in captions
        ]
        return cls(*(predictor.encode_text(texts) for texts in (told, [INSTRUCTION.format(style=style)], [""])))


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
    ) -> None:
        """source `[B,C,h,w]`: clean latents; style: gates of the attached style experts; fake: the parameters of the
        attached `fresh_fake`; mask `[B or 1,1,h,w]` in 0..1: where anything may change (None: everywhere).

        RegionStyleError without a style expert, or for a mask of another size.
        """
        if not style:
            raise wrong_input("model", "a model without style experts", "one or more", "Use Attach Style Expert first.")
        if mask is not None and (mask.ndim != 4 or mask.shape[-2:] != source.shape[-2:]):
            accepts = f"[B or 1,1,{source.shape[-2]},{source.shape[-1]}]"
            raise wrong_input("mask", list(mask.shape), accepts, "Resize the mask to the latent's size.")
        self.predictor, self.source, self.prompts, self.style = predictor, source.detach(), prompts, style
        self.settings, self.mask, self.history = settings, mask, History()
        self.iteration = 0
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._target = nn.Parameter(self.source.clone())
        self._fake = list(fake)
        self._optimizer = torch.optim.AdamW([self._target], lr=settings.rate, weight_decay=0.01)
        self._fake_optimizer = torch.optim.AdamW(self._fake, lr=settings.fake_rate, weight_decay=0.0)

    @property
    def latent(self) -> Tensor:
        return self._target.detach()

    @property
    def settled(self) -> bool:
        """Whether the style's pull has fallen below the tolerance."""
        recent = self.history.movement[-self.settings.window :]
        return len(recent) == self.settings.window and sum(recent) / len(recent) < self.settings.tolerance

    def step(self) -> None:
        """One iteration: style gradient, relevance and spectrum move the latent; then the fake predictor follows."""
        self._move(*self._draw(self.settings.schedule))
        self._follow(*self._draw("uniform"))
        self.iteration += 1

    def _draw(self, kind: Kind) -> tuple[Tensor, Tensor]:
        """Timesteps `[B]` and noise like the latents, drawn on the CPU so that every device gives the same."""
        settings, done = self.settings, self.iteration / self.settings.iterations
        count, range_ = len(self.source), (settings.lowest, settings.highest)
        times = draw_times(settings.preset, kind, done, count, self._generator, *range_)
        noise = torch.randn(self.source.shape, generator=self._generator, dtype=torch.float32)
        return times, noise.to(self.source)

    def _noisy(self, latent: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return self.predictor.add_noise(latent, noise, times / 1000)

    def _move(self, times: Tensor, noise: Tensor) -> None:
        """Steps 1 to 6 of the specification."""
        settings, preset = self.settings, self.settings.preset
        weight = style_weight(preset, self.predictor.alpha_sigma, times)
        with torch.no_grad():
            gradient, relevance = self._look(times, noise, weight)
        # the mask limits what may move: outside it the relevance is 0, and the latent is put back below
        pull = gradient * (relevance if self.mask is None else relevance * self.mask.to(relevance))
        limit = frequency_limit(times, self.source.shape[-2], self.source.shape[-1], settings.highest)
        balance = preset.balance if settings.balance is None else settings.balance
        style = style_loss(self._target, pull)
        content = spectrum_loss(self._target, self.source, limit, preset.power, self.mask)
        self._set_rate()
        self._optimizer.zero_grad(set_to_none=True)
        (style + balance * content).sum().backward()
        self._optimizer.step()
        self._keep_outside()
        moved = (pull.abs().flatten(1).mean(1).double().cpu() / weight.cpu()).mean()
        self._note(style=style, content=balance * content, movement=moved, times=times)

    def _look(self, times: Tensor, noise: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The style gradient `[B,C,h,w]` and the relevance map `[B,1,h,w]`, from one batched forward."""
        settings, prompts, preset = self.settings, self.prompts, self.settings.preset
        guidance = preset.guidance if settings.guidance is None else settings.guidance
        roles = [Role(who, text) for who in ("style", "fake") for text in (prompts.style, prompts.empty)]
        if settings.relevance:
            roles += [Role("plain", text, source=True) for text in (prompts.edit, prompts.empty)]
        result, source = (self._noisy(z, noise, times) for z in (self.latent, self.source))
        seen = predict_roles(self.predictor, roles, result, source, times / 1000, self.style)
        style, fake = (guided_noise(seen[at], seen[at + 1], guidance) for at in (0, 2))
        gradient = style_gradient(style, fake, weight)
        if not settings.relevance:
            return gradient, torch.ones_like(gradient[:, :1])
        return gradient, relevance_map(seen[4], seen[5], preset.relevance)

    def _set_rate(self) -> None:
        """Warm-up over a fifth of the iterations (100 of 500), then a cosine that would end at 1.5 times as many."""
        warm, total = self.settings.iterations / 5, 1.5 * self.settings.iterations
        share = self.iteration / warm if self.iteration < warm else 0.5 * (
            1 + math.cos(math.pi * (self.iteration - warm) / (total - warm)))  # fmt: skip
        self._optimizer.param_groups[0]["lr"] = self.settings.rate * share

    @torch.no_grad()
    def _keep_outside(self) -> None:
        """The latent outside the mask is the source's own."""
        if self.mask is not None:
            self._target.copy_(torch.where(self.mask.to(self._target) > 0, self._target, self.source))

    def _follow(self, times: Tensor, noise: Tensor) -> None:
        """Step 7: one training step of the fake predictor on the latent as it is now, without guidance."""
        noisy = self._noisy(self.latent, noise, times)
        predicted = self.predictor.predict(noisy, times / 1000, self.prompts.style, Gates({NAME: 1.0})).eps
        signal = squared_alpha(self.predictor.alpha_sigma, times)
        weight = signal if self.settings.preset.fake_weight == "signal" else torch.ones_like(signal)
        loss = fake_loss(predicted, noise, weight)
        self._fake_optimizer.zero_grad(set_to_none=True)
        loss.mean().backward()
        self._fake_optimizer.step()
        self._note(fake=loss)

    def _note(self, **values: Tensor) -> None:
        for name, value in values.items():
            getattr(self.history, name).append(float(value.detach().double().mean()))
