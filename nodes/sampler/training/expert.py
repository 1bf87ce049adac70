"""One step of teaching an expert: the noise predictor's error, and Focus and Cover on the words' attention.

L = mean of w(p) |error(p)|^2 + focus Focus + cover Cover (RegionRoute, arXiv:2602.19254), with w = 1 in the restyled
things and `background` outside them, where the pair's pictures are the same. A network that edits sees the picture
before as well, as tokens after its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.attention.supervision import Supervision
from ...engine.attention.tap import AttentionTap
from ...engine.families.registry import family_of
from ...engine.host.workers import ALONE, Workers
from ...engine.predictor.base import Extras, NoisePredictor, Text
from ...engine.training.lora_trainer import LoraTrainer, joined_texts, sample_errors, training_times
from .examples import PairDraw, PairExamples
from .settings import ExpertTrainSettings

PUBLISHED_DECAY = 1e-4
PUBLISHED_GUIDANCE = 1.0  # told in training to networks distilled with guidance


class ExpertTrainer(LoraTrainer[PairDraw]):
    """The state of one training; see `LoraTrainer`. watched: the attentions that are supervised, once one ran."""

    settings: ExpertTrainSettings
    decay = PUBLISHED_DECAY

    def __init__(
        self,
        predictor: NoisePredictor,
        parameters: Iterable[nn.Parameter],
        examples: PairExamples,
        settings: ExpertTrainSettings,
        workers: Workers = ALONE,
    ) -> None:
        numbers = examples.examples[0].latent.numel()
        super().__init__(
            predictor, parameters, settings, numbers, optimizer=settings.optimizer, workers=workers
        )  # fmt: skip
        self.examples = examples
        self.watched: list[str] | None = None
        self._tap: AttentionTap | None = None

    def _draw(self, number: int) -> PairDraw:
        return self.examples.draw(self.settings.seed, number)

    def _held_out(self) -> list[PairDraw]:
        return self.examples.held_draws()

    def _parts(self, draws: Sequence[PairDraw], size: int) -> list[list[PairDraw]]:
        """At most `size` samples each, with prompts of one length."""
        by_shape: dict[object, list[PairDraw]] = {}
        for draw in draws:
            by_shape.setdefault(self._text(draw).states.shape, []).append(draw)
        return [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]

    def _text(self, draw: PairDraw) -> Text:
        return self.examples.texts[draw.example.prompt]

    @contextmanager
    def _around(self, part: Sequence[PairDraw]) -> Iterator[None]:
        """The tap stays on until the gradients are there: a checkpointed layer runs again, and must be seen again."""
        if not any(draw.example.targets for draw in part):
            yield
            return
        supervision = self._supervision(part)
        try:
            with supervision.tap(self.predictor, self.watched) as self._tap:
                yield
        finally:
            self._tap = None

    def _supervision(self, part: Sequence[PairDraw]) -> Supervision:
        valid = torch.cat([self._text(draw).valid[:1].cpu() for draw in part])
        size = part[0].example.latent.shape[-2:]
        targets = [draw.example.targets for draw in part]
        return Supervision(targets, valid, self.settings.losses, (int(size[0]), int(size[1])))

    def _losses(self, part: Sequence[PairDraw]) -> Tensor:
        predictor, device = self.predictor, self.predictor.host.device
        x0, area = (torch.stack([getattr(d.example, n) for d in part]).to(device) for n in ("latent", "area"))
        eps = torch.stack([draw.noise for draw in part]).to(device)
        t = training_times(predictor.predicts, [draw.timestep for draw in part]).to(device)
        text = self._told(joined_texts([self._text(draw) for draw in part]))
        with self._shown(part):
            prediction = predictor.predict(predictor.add_noise(x0, eps, t), t, text)
        errors = sample_errors(predictor.predicts, prediction, x0, eps, *predictor.alpha_sigma(t))
        weight = area + (1 - area) * self.settings.background
        losses = (errors * weight).flatten(1).mean(1)
        return losses if self._tap is None else losses + self._attention_losses(part).to(losses)

    def _told(self, text: Text) -> Text:
        guided = "guidance" in self.predictor.extras_read
        return replace(text, extras=Extras(guidance=PUBLISHED_GUIDANCE)) if guided else text

    def _shown(self, part: Sequence[PairDraw]) -> AbstractContextManager[Any]:
        """A block in which the network sees the pictures before, where it is to."""
        if self.settings.source == "hidden":
            return nullcontext()
        return self.predictor.showing(torch.stack([draw.example.source for draw in part]))

    def _attention_losses(self, part: Sequence[PairDraw]) -> Tensor:
        """Of each sample by itself, so that the sum over a batch does not depend on how it is cut."""
        assert self._tap is not None
        maps = self._watched_maps()
        totals = []
        for row, draw in enumerate(part):
            own = self._supervision([draw])
            found = own.loss({path: seen[row : row + 1, : own.groups.shape[1]] for path, seen in maps.items()})
            totals.append(found.total)
        return torch.stack(totals)

    def _watched_maps(self) -> dict[str, Tensor]:
        assert self._tap is not None
        if self.watched is None:
            grids = {path: (int(seen.shape[-2]), int(seen.shape[-1])) for path, seen in self._tap.maps.items()}
            latent = self.examples.examples[0].latent.shape[-2:]
            useful = family_of(self.predictor.network).layout_layers(grids, (int(latent[0]), int(latent[1])))
            self.watched = list(grids) if self.settings.all_layers else useful
        return {path: self._tap.maps[path] for path in self.watched}
