"""A whole training of a generator: set up, go on from a saved state, train, show pictures, save.

The state is saved at previews, every few seconds, and when the training is stopped.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.adapters.gates import Gate
from ...engine.errors import wrong_input
from ...engine.host.workers import ALONE, Workers
from ...engine.io.training_state import (
    SAVE_EVERY,
    check_finite,
    finite,
    read_state_file,
    restore_optimizer,
    restoring,
    write_state,
)
from ...engine.predictor.base import NoisePredictor
from ..score import Prompts
from ..settings import DistillSettings
from .files import StyleGenerator
from .network import Generator, new_generator
from .pictures import Pictures, validation_crops
from .training import Distiller, DistillHistory

HISTORY = tuple(field.name for field in fields(DistillHistory))
ENTRIES: Mapping[str, type] = {
    "settings": dict, "iteration": int, "generator": dict, "optimizer": dict, "fake": list, "fake_optimizer": dict,
    "history": dict,
}  # fmt: skip
FRAMES = 8  # pictures of the progression, at most
OnValidation = Callable[[int, Tensor, Tensor], None]  # iterations done, inputs and results `[N,3,h,w]`


@dataclass(frozen=True, eq=False)
class Distilled:
    """The trained generator, on the CPU; frames: the first validation picture now and then; losses."""

    generator: StyleGenerator
    frames: list[Tensor]
    history: DistillHistory


def distill(
    predictor: NoisePredictor,
    pictures: Pictures,
    caption: str,
    style_words: str,
    style: Mapping[str, Gate],
    fake: Sequence[nn.Parameter],
    settings: DistillSettings,
    *,
    name: str = "",
    validation: Pictures | None = None,
    state: Path | None = None,
    on_validation: OnValidation = lambda done, inputs, results: None,
    workers: Workers = ALONE,
) -> Distilled:
    """Train a generator to paint the style of the attached experts.

    caption: of pictures without one of their own, may be empty; style_words: the style as prompts name it; name: what
    the file will call the style (default: the words); style: gates of the style experts; fake: parameters of the
    attached `init_fake`; validation: pictures to look at (default: the first of the training); state: file to save to
    and, if it is there, to go on from; workers: the processes that train it together. Shows previews; a cancel at any
    iteration leaves the state saved.
    RegionStyleError for empty style words, pictures that cannot be read, and a state of other settings.
    """
    style_words = style_words.strip()
    if not style_words:
        raise wrong_input("style", "nothing", "words for the style", "Type for example 'watercolor'.")
    with torch.no_grad(), predictor.loaded():
        prompts = Prompts.of(predictor, [caption], style_words, settings.sms.preset)
        own = sorted({pictures.caption(index) for index in range(len(pictures))} - {""})
        told_of = {each: Prompts.of(predictor, [each], style_words, settings.sms.preset).style for each in own}
    with predictor.gradients(decode=True):
        generator = new_generator(settings.architecture, settings.sms.seed)
        generator.to(predictor.host.device)
        distiller = Distiller(predictor, pictures, prompts, style, fake, generator, settings, told_of, workers)
        identity = _identity(settings, style_words, caption, own) | {"workers": workers.count}
        if state is not None and state.is_file():
            restore(distiller, state, identity)
        state_file, shown = (state, on_validation) if workers.first else (None, lambda done, inputs, results: None)
        frames = _Run(distiller, validation or pictures, state_file, identity, shown).all()
        trained = _copy_of(generator)
    return Distilled(StyleGenerator(trained, name or style_words), frames, distiller.history)


class _Run:
    """The iterations that are left, with validation pictures and saved states between them."""

    def __init__(
        self, distiller: Distiller, validation: Pictures, state: Path | None, identity: dict[str, Any],
        on_validation: OnValidation,
    ) -> None:  # fmt: skip
        self.distiller, self.state, self.identity, self.on_validation = distiller, state, identity, on_validation
        self.inputs = validation_crops(validation, distiller.size)
        self.frames: list[Tensor] = []

    def all(self) -> list[Tensor]:
        distiller, total = self.distiller, self.distiller.settings.total
        progress = distiller.predictor.host.progress(total, "training the generator")
        every = distiller.settings.sms.preview_every
        kept = {round(total * iteration / (FRAMES - 1)) for iteration in range(FRAMES)}
        saved = time.monotonic()
        try:
            while distiller.iteration < total:
                iteration = distiller.iteration
                shown = self._look(iteration in kept) if iteration % every == 0 or iteration in kept else None
                progress.update(iteration, shown)
                distiller.step()
                self._check()
                if time.monotonic() - saved > SAVE_EVERY or distiller.iteration % every == 0:
                    saved = time.monotonic()
                    self._save()
        finally:
            self._save()
        progress.update(total, self._look(True))
        return self.frames

    def _look(self, keep: bool) -> Tensor:
        with torch.no_grad():
            self.distiller.predictor.host.load(self.distiller.generator)
            inputs = self.inputs.to(self.distiller.predictor.host.device)
            results = self.distiller.generator(inputs).clamp(0, 1).cpu()
        self.on_validation(self.distiller.iteration, self.inputs, results)
        if keep:
            self.frames.append(results[0])
        return results[0]

    def _check(self) -> None:
        """RegionStyleError when the last iteration led out of the numbers."""
        distiller = self.distiller
        losses = [values[-1] for name in HISTORY if (values := getattr(distiller.history, name))]
        trained = [*distiller.generator.parameters(), *distiller.fake]
        check_finite(trained, losses, distiller.iteration, self._kept)

    def _kept(self) -> str:
        there = self.state is not None and self.state.is_file()
        return f" Its last good state is {self.state}." if there else ""

    def _save(self) -> None:
        if self.state is not None:
            save_state(self.distiller, self.state, self.identity)


def _identity(settings: DistillSettings, style_words: str, caption: str, captions: Sequence[str]) -> dict[str, Any]:
    """What must be the same when a training goes on: all but the number of iterations and when pictures are shown."""
    sms = {k: v for k, v in asdict(settings.sms).items() if k not in ("iterations", "preview_every", "preset")}
    own = {"architecture": settings.architecture, "copies": settings.copies, "warm_up": settings.warm_up}
    digest = hashlib.sha256("\n".join(captions).encode()).hexdigest() if captions else ""
    words = {"style": style_words, "caption": caption, "captions": digest, "preset": settings.sms.preset.name}
    return {**sms, **own, **words, "size": settings.size}


def save_state(distiller: Distiller, path: Path, identity: dict[str, Any]) -> None:
    """Everything a training needs to go on; half a file is never left behind."""
    saved = {
        "settings": identity,
        "iteration": distiller.iteration,
        "generator": distiller.generator.state_dict(),
        "optimizer": distiller.optimizer.state_dict(),
        "fake": [parameter.detach() for parameter in distiller.fake],
        "fake_optimizer": distiller.fake_optimizer.state_dict(),
        "history": asdict(distiller.history),
    }
    if finite(saved):  # a training that has diverged keeps its last good state
        write_state(path, saved)


def restore(distiller: Distiller, path: Path, identity: dict[str, Any]) -> None:
    """Go on where a state was saved. RegionStyleError for a file of another kind, or of other settings (named)."""
    saved = _read(path)
    differ = [f"{key} {saved['settings'].get(key)!r}, not {value!r}" for key, value in identity.items()
              if saved["settings"].get(key) != value]  # fmt: skip
    if differ:
        got = f"{path.name} of a training with {'; '.join(differ)}"
        raise wrong_input("state", got, "one of the same settings", "Give them again, or begin anew elsewhere.")
    if saved["iteration"] > distiller.settings.total:
        got = f"{path.name} after {saved['iteration']} iterations"
        accepts = f"at most the {distiller.settings.total} asked for (warm-up included)"
        raise wrong_input("state", got, accepts, "Ask for more iterations.")
    if len(saved["fake"]) != len(distiller.fake):
        raise wrong_input("state", path.name, "one of the same model", "Load the model it was begun with.")
    with restoring(path, "state", "Load the model it was begun with, or begin anew elsewhere."):
        distiller.generator.load_state_dict(saved["generator"])
        restore_optimizer(distiller.optimizer, saved["optimizer"])
        restore_optimizer(distiller.fake_optimizer, saved["fake_optimizer"])
        with torch.no_grad():
            for parameter, value in zip(distiller.fake, saved["fake"], strict=True):
                parameter.copy_(value)
        distiller.history = DistillHistory(**{name: list(saved["history"][name]) for name in HISTORY})
    distiller.iteration = saved["iteration"]


def _read(path: Path) -> dict[str, Any]:
    return read_state_file(path, ENTRIES, "state", "Delete it and begin anew.")


def _copy_of(generator: Generator) -> Generator:
    copied = Generator(generator.name)
    copied.load_state_dict({key: value.detach().cpu() for key, value in generator.state_dict().items()})
    return copied.eval().requires_grad_(False)
