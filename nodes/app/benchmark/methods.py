"""What a benchmark measures: a model that makes the results, finished pictures, or the untouched input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import Host
from ...engine.language.region_prompt import region_prompt
from ...engine.region.regions import region_of
from ...grounding.finders.attention import AttentionSettings
from ...grounding.finders.attention_finder import ground_by_attention
from ...grounding.language.prompt import parse_prompt
from ...metrics.datasets.samples import HARMONIZATION, PICTURES, REGIONAL, Sample
from ..edit import EditResult, EditSettings, edit
from ..local_model import TINY, LocalModel, known_styles, open_model
from ..painters.registry import PainterContext, painter_named
from ..pictures import read_image

UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Task:
    """A sample with its picture `[1,3,H,W]`, its region `[H,W]` (None: not known) and the words of its edit."""

    sample: Sample
    image: Tensor
    mask: Tensor | None
    phrase: str
    style: str

    @property
    def words(self) -> str:
        """What the result shall show: the prompt the model is given."""
        if not self.style and not self.sample.prompt:
            raise wrong_input("--style", "none", "a style, since the samples bring none", "Give --style NAME.")
        if not self.style:
            return self.sample.prompt
        return region_prompt([self.phrase], self.style)


Method = Callable[[Task], EditResult]


def read_task(sample: Sample, kind: str) -> Task:
    """The sample's picture, mask (resized to it where they differ) and words: its own, or read from its prompt."""
    image = read_image(sample.image)
    mask = None if sample.mask is None else _sized(torch.from_numpy(sample.mask().copy()), image)
    if sample.style or kind != REGIONAL:
        return Task(sample, image, mask, sample.phrase, sample.style)
    request = parse_prompt(sample.prompt, None)
    return Task(sample, image, mask, request.phrase, request.style)


def _sized(mask: Tensor, image: Tensor) -> Tensor:
    if mask.shape == image.shape[-2:]:
        return mask
    return F.interpolate(mask[None, None], image.shape[-2:], mode="nearest")[0, 0]


def finished(folder: Path) -> Method:
    """Pictures that lie in a folder under the samples' names."""
    if not folder.is_dir():
        raise wrong_input("--results", str(folder), "a folder of pictures", "Check the path.")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}

    def method(task: Task) -> EditResult:
        if task.sample.name not in files:
            got = f"no picture {task.sample.name!r} in {folder}"
            raise wrong_input("--results", got, "one per sample", "Add it, or use --limit.")
        return _result(read_image(files[task.sample.name]), task)

    return method


def unchanged(task: Task) -> EditResult:
    """The input itself: what every method must beat."""
    return _result(task.image, task)


def _result(image: Tensor, task: Task) -> EditResult:
    """A picture that was made elsewhere, as the result of a task: its region, where one is known."""
    if task.mask is None:
        return EditResult(image, torch.ones(1, *image.shape[-2:]))
    return EditResult(image, task.mask[None], (region_of(task.phrase, task.mask, style=task.style),))


@dataclass(frozen=True)
class MethodRequest:
    """results: a folder of finished pictures, or None; model: "unchanged", "tinyworld" or a folder, or None; expert:
    the style's LoRA for a folder; seed: of the noise."""

    results: Path | None = None
    model: str | None = None
    expert: Path | None = None
    seed: int = 0

    def check(self) -> None:
        """RegionStyleError for a LoRA without a model that could take it."""
        if self.expert is not None and self.model in (None, TINY, UNCHANGED):
            raise wrong_input(
                "--expert", str(self.expert), "--model FOLDER with it", "Leave it out, or name the model."
            )


def method_of(
    request: MethodRequest, kind: str, styles: Sequence[str], host: Host
) -> tuple[Method, AbstractContextManager[Any], str]:
    """The method that is asked for, a context to run it in, and its name."""
    request.check()
    if request.results is not None:
        return finished(request.results), nullcontext(), f"pictures of {request.results.name}"
    if request.model is None or request.model == UNCHANGED:
        return unchanged, nullcontext(), "input, unchanged"
    if kind == HARMONIZATION:
        raise RegionStyleError(
            f"--model: got {request.model!r}, expected {UNCHANGED!r} for a harmonisation data set, since a restyling "
            "model harmonises nothing. Score finished pictures with --results DIR."
        )
    named = [style for style in styles if style] or known_styles(request.model) or []
    model = open_model(request.model, host, styles=named, expert=request.expert)
    return _restyling(model, request.seed, kind), model.predictor.loaded(), request.model


def _restyling(model: LocalModel, seed: int, kind: str) -> Method:
    def method(task: Task) -> EditResult:
        region = region_of(task.phrase, _mask_of(model.predictor, task, kind, seed), style=task.style)
        settings = EditSettings(seed=seed, prompt=task.words)
        edited = edit(task.image, [region], painter_named("expert", PainterContext(model, settings)), settings)
        return replace(edited, image=edited.image.float().cpu().clamp(0, 1))

    return method


def _mask_of(predictor: Any, task: Task, kind: str, seed: int) -> Tensor:
    """The given region; everything for a whole-picture task; otherwise what the model's attention finds."""
    if kind != REGIONAL:
        return torch.ones(task.image.shape[-2:])
    if task.mask is not None:
        return task.mask
    grounding = ground_by_attention(predictor, task.image, task.phrase, settings=AttentionSettings(seed=seed))
    if not grounding.found:
        raise wrong_input(task.sample.name, f"{task.phrase!r} not found", "a thing in the picture", "Give a mask file.")
    return grounding.mask
