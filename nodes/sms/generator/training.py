"""Feed-forward distillation of SMS: a generator learns to do in one pass what the optimiser does in hundreds.

Warm-up: the generator learns to give its input back (L1). Then, per iteration: one picture, one result, `copies` noisy
versions of its latent with a timestep and noise of their own each; the style gradient and the spectrum term reach the
generator through the autoencoder, averaged over the copies; the fake predictor follows (arXiv 2503.07601, distillation
with per-batch variable timesteps, same narrowing schedule).

Everything an iteration draws follows from the seed and its number, so a training that was stopped goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.adapters.gates import Gate
from ...engine.errors import wrong_input
from ...engine.host.workers import ALONE, Workers
from ...engine.predictor.base import NoisePredictor, Text
from ..score import Prompts, StyleScore
from ..settings import DistillSettings, Kind
from .network import Generator
from .pictures import Pictures, draw_numbered_crop

LARGEST_NORM = 1.0  # of the generator's gradient
SMALLEST = 1e-12  # of AdamW: w_t makes gradients of 1e-6, which its usual 1e-8 would shorten


@dataclass
class DistillHistory:
    """Losses, one entry per iteration; during the warm-up the style is 0 and `content` is the L1 error."""

    style: list[float] = field(default_factory=list)
    content: list[float] = field(default_factory=list)
    fake: list[float] = field(default_factory=list)


class _KeepInRange(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        context.save_for_backward(images)
        return images.clamp(0, 1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (images,) = context.saved_tensors
        outwards = ((images > 1) & (gradient < 0)) | ((images < 0) & (gradient > 0))
        return gradient.masked_fill(outwards, 0.0)


def keep_in_range(images: Tensor) -> Tensor:
    """`clamp(0, 1)` whose gradient still leads back inside: a plain clamp never lets go of what has left the range."""
    return _KeepInRange.apply(images)


class Distiller:
    """The state of one training. Use inside `predictor.gradients(decode=True)`.

    generator: as trained so far, valid at any moment, also after a cancel.
    """

    def __init__(
        self,
        predictor: NoisePredictor,
        pictures: Pictures,
        prompts: Prompts,
        style: Mapping[str, Gate],
        fake: Sequence[nn.Parameter],
        generator: Generator,
        settings: DistillSettings,
        captions: Mapping[str, Text] | None = None,
        workers: Workers = ALONE,
    ) -> None:
        """style: gates of the attached style experts; fake: the parameters of the attached `init_fake`; captions: what
        stands in place of `prompts.style` for pictures with a caption of their own, by that caption; workers: the
        processes that train it together.

        RegionStyleError without a style expert, or for a size that autoencoder or generator cannot halve.
        """
        self.predictor, self.pictures, self.settings = predictor, pictures, settings
        self.generator, self.history, self.iteration = generator, DistillHistory(), 0
        self.score = StyleScore(predictor, prompts, style, settings.sms)
        self._prompts, self._captions, self._workers = prompts, dict(captions or {}), workers
        self.size = settings.size or predictor.native_size
        grid = math.lcm(predictor.factor, generator.architecture.stride)
        if self.size % grid:
            raise wrong_input("size", self.size, f"a multiple of {grid}", "Choose another size of the crops.")
        self.fake = list(fake)
        rate = settings.sms.rate
        self.optimizer = torch.optim.AdamW(generator.parameters(), lr=rate, weight_decay=0.0, eps=SMALLEST)
        self.fake_optimizer = torch.optim.AdamW(self.fake, lr=settings.sms.fake_rate, weight_decay=0.0)

    def step(self) -> None:
        """One iteration of the warm-up or of SMS."""
        seed = self.settings.sms.seed * 1_000_003 + self.iteration
        # torch takes seeds of 64 bits
        random = torch.Generator().manual_seed((seed + self._workers.rank * 1_000_000_007) % 2**64)
        index, images = draw_numbered_crop(self.pictures, self.size, random)
        images = images.to(self.predictor.host.device)
        style_text = self._captions.get(self.pictures.caption(index)) if self._captions else None
        self.score.prompts = self._prompts if style_text is None else replace(self._prompts, style=style_text)
        self.predictor.host.load(self.generator)
        for optimizer in (self.optimizer, self.fake_optimizer):
            optimizer.zero_grad(set_to_none=True)
        warming = self.iteration < self.settings.warm_up
        losses = self._reconstruct(images) if warming else self._distil(images, random)
        # A cancel comes before this line or after the step: a saved state is that of whole iterations.
        self._update()
        for name, loss in losses.items():
            getattr(self.history, name).append(float(loss.detach().double().mean()))
        self.iteration += 1

    def _reconstruct(self, images: Tensor) -> dict[str, Tensor]:
        loss = (self.generator(images) - images).abs().mean()
        loss.backward()
        return {"style": torch.zeros(()), "content": loss, "fake": torch.zeros(())}

    def _distil(self, images: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Gradients of the generator, then of the fake predictor, which learns the results as they are now."""
        with torch.no_grad():
            source = self._copies(self.predictor.encode(images))
        latent = self._copies(self.predictor.encode(keep_in_range(self.generator(images))))
        losses = self.score.losses(latent, source, *self._draw(self.settings.sms.schedule, latent, random))
        # as sums over the latent: its mean would make gradients still smaller
        ((losses.style + losses.content).mean() * latent[0].numel()).backward()
        fake = self.score.fake_error(latent.detach(), *self._draw("uniform", latent, random))
        fake.mean().backward()
        return {"style": losses.style, "content": losses.content, "fake": fake}

    def _draw(self, kind: Kind, latent: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.score.draw(kind, self._done(), latent, random)

    def _done(self) -> float:
        return max(0.0, (self.iteration - self.settings.warm_up) / self.settings.sms.iterations)

    def _copies(self, latent: Tensor) -> Tensor:
        return latent.expand(self.settings.copies, -1, -1, -1)

    def _update(self) -> None:
        """The generator's learning rate falls from its full value to a hundredth along a cosine."""
        share = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self._done()))
        self.optimizer.param_groups[0]["lr"] = self.settings.sms.rate * share
        self._workers.average([*self.generator.parameters(), *self.fake])
        nn.utils.clip_grad_norm_(self.generator.parameters(), LARGEST_NORM)
        self.optimizer.step()
        self.fake_optimizer.step()
