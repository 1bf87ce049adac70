"""What SMS asks of its predictors in one iteration: for an optimised latent and for a generator's output alike.

The formulas are in `objective.py`, the timesteps in `schedule.py`, the batched call in `roles.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.adapters.gates import Gate, Gates
from ..engine.errors import wrong_input
from ..engine.host.context import running_slice
from ..engine.host.memory import BatchSlice
from ..engine.predictor.base import NoisePredictor, Text
from ..engine.tiles.predictor import covered_by, pieces_of
from .fake import NAME
from .objective import fake_loss, guided_noise, latent_loss, relevance_map, spectrum_loss, style_gradient, style_loss
from .presets import Preset
from .roles import Role, predict_roles
from .schedule import draw_times, frequency_limit, squared_alpha, style_weight
from .settings import Kind, SmsSettings

INSTRUCTION = "Turn it into {style}"


@dataclass(frozen=True, eq=False)
class Prompts:
    """Encoded prompts: 1 or B each. style: read by style and fake predictor; edit: the instruction to restyle."""

    style: Text
    edit: Text
    empty: Text

    @classmethod
    def of(cls, predictor: NoisePredictor, captions: Sequence[str], style: str, preset: Preset) -> Prompts:
        """Encode them for captions of the pictures (one, or one each; they may be empty) and the style's words."""
        styled = [preset.style_prompt(style, caption) for caption in captions]
        return cls(*(predictor.encode_text(texts) for texts in (styled, [INSTRUCTION.format(style=style)], [""])))


@dataclass(frozen=True, eq=False)
class BaseModel:
    """The network that real and fake predict on where the style's experts belong to another checkpoint.

    The published scripts take the style from a checkpoint of its own and real and fake from plain Stable Diffusion
    1.5. predictor: with the same latents as the style's, and the fake expert on it; prompts: encoded by its own
    text encoder.
    """

    predictor: NoisePredictor
    prompts: Prompts


def _check_base(base: NoisePredictor, predictor: NoisePredictor) -> None:
    """RegionStyleError unless both networks see the same latents."""
    got, accepts = ((each.latent_channels, each.factor) for each in (base, predictor))
    if got != accepts:
        raise wrong_input(
            "base", f"latents of {got[0]} channels and factor {got[1]}",
            f"those of the style's model, {accepts[0]} and {accepts[1]}", "Choose a base of the same family.",
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Losses:
    """Of the pictures of a batch, `[B]` each: style, content (weighted), and the mean of |R * gradient| / w_t."""

    style: Tensor
    content: Tensor
    movement: Tensor


class StyleScore:
    """The style matching score of latents, with the three predictors on one network, or real and fake on a base."""

    def __init__(
        self,
        predictor: NoisePredictor,
        prompts: Prompts,
        style: Mapping[str, Gate],
        settings: SmsSettings,
        base: BaseModel | None = None,
    ) -> None:
        """style: gates of the attached style experts; base: where real and fake predict (None: on `predictor`).

        RegionStyleError without a style expert, or for a base whose latents are not the predictor's.
        """
        if not style:
            raise wrong_input("model", "a model without style experts", "one or more", "Use Attach Style Expert first.")
        if base is not None:
            _check_base(base.predictor, predictor)
        self.predictor, self.prompts, self.style, self.settings = predictor, prompts, style, settings
        self._base = base

    @property
    def _base_predictor(self) -> NoisePredictor:
        return self.predictor if self._base is None else self._base.predictor

    @property
    def _base_prompts(self) -> Prompts:
        return self.prompts if self._base is None else self._base.prompts

    def draw(self, kind: Kind, done: float, like: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Timesteps `[B]` and noise like the latents `[B,C,h,w]`, drawn on the CPU so that every device gives the same.

        done: share of the iterations that are over.
        """
        settings = self.settings
        times = draw_times(settings.preset, kind, done, len(like), random, settings.lowest, settings.highest)
        return times, torch.randn(like.shape, generator=random, dtype=torch.float32).to(like)

    def losses(
        self, latent: Tensor, source: Tensor, times: Tensor, noise: Tensor, mask: Tensor | None = None
    ) -> Losses:
        """Style and content of a latent `[B,C,h,w]`, the only one that gets a gradient.

        source: clean latents of the source; times `[B]` in 0..1000; noise `[B,C,h,w]`, the same for both; mask
        `[B or 1,1,h,w]`: limits what may move. Source: SMS, arXiv:2503.07601, section 3.5.
        """
        settings, preset = self.settings, self.settings.preset
        weight = style_weight(preset, self.predictor.alpha_sigma, times)
        with torch.no_grad():
            gradient, relevance = self._gradient_and_relevance(latent.detach(), source, times, noise, weight)
        pull = gradient * (relevance if mask is None else relevance * mask.to(relevance))
        balance = preset.balance if settings.balance is None else settings.balance
        content = self._content(latent, source, times, mask)
        movement = pull.abs().flatten(1).mean(1).double().cpu() / weight.cpu()
        return Losses(style_loss(latent, pull), balance * content, movement)

    def _content(self, latent: Tensor, source: Tensor, times: Tensor, mask: Tensor | None) -> Tensor:
        """The spectrum term `[B]`, or what stands in its place."""
        settings = self.settings
        if settings.content == "latent":
            return latent_loss(latent, source, mask)
        times = times if settings.content == "spectrum" else torch.full_like(times, settings.highest / 2)
        limit = frequency_limit(times, source.shape[-2], source.shape[-1], settings.highest)
        return spectrum_loss(latent, source, limit, settings.preset.power, mask)

    def _gradient_and_relevance(
        self, latent: Tensor, source: Tensor, times: Tensor, noise: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The style gradient `[B,C,h,w]` and the relevance map `[B,1,h,w]`, from one batched forward per network."""
        settings, preset = self.settings, self.settings.preset
        guidance = preset.guidance if settings.guidance is None else settings.guidance
        noises = self._noises(self._roles(guidance), latent, source, times, noise)
        # without guidance the empty prompt has no part in the style gradient
        pairs = [noises[0:1] * 2, noises[1:2] * 2] if guidance == 1 else [noises[0:2], noises[2:4]]
        style, fake = (guided_noise(prompted, empty, guidance) for prompted, empty in pairs)
        gradient = style_gradient(style, fake, weight)
        if not settings.relevance:
            return gradient, torch.ones_like(gradient[:, :1])
        seen = covered_by(self._base_predictor)
        return gradient, relevance_map(noises[-2], noises[-1], preset.relevance, seen)

    def _roles(self, guidance: float) -> list[Role]:
        """Those of the style, then those of the fake predictor, then those of the plain model."""
        own, base = self.prompts, self._base_prompts
        read = [(own.style, base.style)] + ([] if guidance == 1 else [(own.empty, base.empty)])
        roles = [Role("style", text) for text, _ in read] + [Role("fake", text) for _, text in read]
        if self.settings.relevance:
            roles += [Role("plain", text, source=True) for text in (base.edit, base.empty)]
        return roles

    def _noises(self, roles: list[Role], latent: Tensor, source: Tensor, times: Tensor, noise: Tensor) -> list[Tensor]:
        """What each role predicts, on the network it belongs to; the roles of the style come first."""
        styled = sum(role.who == "style" for role in roles)
        if self._base is None:
            blocks = [(self.predictor, roles)]
        else:
            blocks = [(self.predictor, roles[:styled]), (self._base.predictor, roles[styled:])]
        noises: list[Tensor] = []
        for predictor, group in blocks:
            noisy, noisy_source = (predictor.add_noise(clean, noise, times / 1000) for clean in (latent, source))
            noises += predict_roles(predictor, group, noisy, noisy_source, times / 1000, self.style)
        return noises

    def fake_error(self, latent: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """How far the fake predictor is from the noise of the latent as it is now, `[B]`, without guidance.

        Source: SMS, arXiv:2503.07601, section 3.2, the loss of the fake model.
        """
        return torch.stack(list(self.fake_errors(latent, times, noise))).sum(0)

    def fake_errors(
        self, latent: Tensor, times: Tensor, noise: Tensor, part: BatchSlice | None = None
    ) -> Iterator[Tensor]:
        """`fake_error` in terms that add up to it, `[B]` each: one per tile, so that one graph is held at a time.

        In tiles each is an error of its own, weighted as its prediction is where predictions are fused: the fake
        predictor learns what it sees, which is tiles. part: these are some pictures of a batch (None: all of it), which
        the prompts belong to.
        """
        predictor, text = self._base_predictor, self._base_prompts.style
        text = text if part is None else text.rows(part)
        noisy = predictor.add_noise(latent.detach(), noise, times / 1000)
        signal = squared_alpha(predictor.alpha_sigma, times)
        weight = signal if self.settings.preset.fake_weight == "signal" else torch.ones_like(signal)
        for piece in pieces_of(predictor):
            with nullcontext() if part is None else running_slice(part):
                predicted = piece.predict(piece.cut(noisy), times / 1000, text, Gates({NAME: 1.0})).eps
            yield fake_loss(predicted, piece.cut(noise), weight, piece.share, piece.covered)
