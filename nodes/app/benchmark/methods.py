"""What a benchmark measures: a model that makes the results, finished pictures, or the untouched input."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError, wrong_input
from ...grounding.finders.attention import AttentionSettings, ground_by_attention
from ...grounding.language.prompt import parse_prompt
from ...metrics.datasets.samples import HARMONIZATION, PICTURES, REGIONAL, Sample
from ...router.restyle import RestyleSettings, restyle_region
from ..cli.demo import tiny_settings
from ..cli.stylize import TINY
from ..pictures import read_image
from ..sentence import style_gates

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
        return f"a {self.phrase} in {self.style} style" if self.phrase else f"a picture in {self.style} style"


@dataclass(frozen=True)
class Made:
    """A result `[1,3,H,W]` and the region that was worked on `[H,W]`."""

    image: Tensor
    mask: Tensor | None


Method = Callable[[Task], Made]


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

    def method(task: Task) -> Made:
        if task.sample.name not in files:
            got = f"no picture {task.sample.name!r} in {folder}"
            raise wrong_input("--results", got, "one per sample", "Add it, or use --limit.")
        return Made(read_image(files[task.sample.name]), task.mask)

    return method


def unchanged(task: Task) -> Made:
    """The input itself: what every method must beat."""
    return Made(task.image, task.mask)


def method_of(
    args: argparse.Namespace, kind: str, styles: list[str]
) -> tuple[Method, AbstractContextManager[Any], str]:
    """The method of the command line, a context to run it in, and its name."""
    _check_expert(args)
    if args.results is not None:
        return finished(args.results), nullcontext(), f"pictures of {args.results.name}"
    if args.model == UNCHANGED:
        return unchanged, nullcontext(), "input, unchanged"
    if kind == HARMONIZATION:
        raise RegionStyleError(
            f"--model: got {args.model!r}, expected {UNCHANGED!r} for a harmonisation data set, since a restyling "
            "model harmonises nothing. Score finished pictures with --results DIR."
        )
    predictor = _predictor(args, styles)
    return _restyling(predictor, args, kind), predictor.loaded(), args.model


def _check_expert(args: argparse.Namespace) -> None:
    if args.expert is not None and args.model in (None, TINY, UNCHANGED):
        raise wrong_input("--expert", str(args.expert), "--model FOLDER with it", "Leave it out, or name the model.")


def _predictor(args: argparse.Namespace, styles: list[str]) -> Any:
    from ..cli.console import console_host

    host = console_host(args.device)
    if args.model != TINY:
        from ..models import load_folder

        return load_folder(Path(args.model), args.expert, host)
    from ...tinyworld.bundled import expert_files, load_bundled_expert, load_predictor

    named = list(dict.fromkeys(style for style in styles if style)) or list(expert_files())
    return load_predictor(host, [load_bundled_expert(style) for style in named])


def _restyling(predictor: Any, args: argparse.Namespace, kind: str) -> Method:
    def method(task: Task) -> Made:
        mask = _region(predictor, task, kind, args.seed)
        settings, negative = _settings(predictor, args, task.style)
        result = restyle_region(
            predictor,
            task.image,
            mask,
            task.words,
            negative=negative,
            settings=settings,
            gate=lambda region, cut: style_gates(predictor, task.style, region),
        )
        return Made(result.image.float().cpu().clamp(0, 1), mask)

    return method


def _region(predictor: Any, task: Task, kind: str, seed: int) -> Tensor:
    """The given region; everything for a whole-picture task; otherwise what the model's attention finds."""
    if kind != REGIONAL:
        return torch.ones(task.image.shape[-2:])
    if task.mask is not None:
        return task.mask
    found = ground_by_attention(predictor, task.image, task.phrase, settings=AttentionSettings(seed=seed))
    if not found.found:
        raise wrong_input(task.sample.name, f"{task.phrase!r} not found", "a thing in the picture", "Give a mask file.")
    return found.mask


def _settings(predictor: Any, args: argparse.Namespace, style: str) -> tuple[RestyleSettings, str | None]:
    """The settings and the negative prompt of `stylize`."""
    from ..models import folder_settings

    if args.model == TINY:
        return tiny_settings(style, seed=args.seed), None
    return folder_settings(predictor, seed=args.seed)
