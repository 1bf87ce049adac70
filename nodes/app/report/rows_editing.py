"""Row "editing": a picture edited by words alone, no mask at inference, and what teaching the attention is worth.

With `--train-minutes` the variants of the losses are trained on the spot, from one common start and as long as each
other; without, only the adapter that ships is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...engine.attention.supervision import PUBLISHED, LossSettings
from ...engine.errors import RegionStyleError
from ...metrics.measurement import UNIT, Measurement, check_tiny
from ...metrics.pixels import masked_mse, psnr_of
from ...metrics.regional_style import regional_style_score
from ...router.restyle import restyle_region
from ...tinyworld.bundled import bundled, load_predictor
from ...tinyworld.clip import region_crop
from ...tinyworld.editing import NAME, EditingAdapter, bundled_adapter, drawn, instruction_for, load_adapter
from ...tinyworld.settings import WordsEditSettings
from ...tinyworld.training.editing_stage import ATTENTION
from ...tinyworld.training.stages import Run, editing_setting
from ..local_model import tiny_settings
from ..metric_networks import TINY_CLASSIFIER
from .editing_scenes import KINDS, EditTask, tasks_of, tasks_with
from .rows import RowContext, RowResult, row

QUICK_SCENES, SCENES, STEPS = 2, 8, 12  # scenes per kind and repetition; the styles take turns, of which there are 8
SOURCE, BASE, SHIPPED = "source, unchanged", "base: prompt, partial noise", "shipped adapter"
AUTOENCODER = "exact truth through the autoencoder"
IN, OUT = "PSNR to the truth in the region", "PSNR to the truth outside"
STYLED, LEAKED = "style recognised in the region", "style outside"
SHOWN = 4
BATCH = 8  # of the variants: many small updates in the minutes there are
START = "start"
UNSUPERVISED = "trained: unsupervised"
VARIANTS: dict[str, LossSettings | None] = {
    UNSUPERVISED: None,
    "trained: published losses": PUBLISHED,
    "trained: log-odds losses": ATTENTION,
    "trained: log-odds, no Focus": LossSettings("logodds", focus=0.0, cover=ATTENTION.cover),
    "trained: log-odds, no Cover": LossSettings("logodds", focus=ATTENTION.focus, cover=0.0),
}
EXPERTS = "one adapter per style"
BETTER = {IN: "higher", OUT: "higher", f"{STYLED}-tiny": "higher", f"{LEAKED}-tiny": "lower"}

Edit = Callable[[Sequence[EditTask]], Tensor]


@torch.no_grad()
def by_words(predictor: Any, adapter: EditingAdapter, tasks: Sequence[EditTask]) -> Tensor:
    """Pictures `[B,3,H,W]`, each with its own instructions followed; all tasks ask for as many."""
    latents = predictor.encode(torch.cat([task.image for task in tasks]))
    settings = WordsEditSettings(steps=STEPS)
    with predictor.host.on_device(adapter), adapter.attached(predictor.network):
        for number in range(len(tasks[0].asked)):
            noise = torch.cat([_noise(task.seed, number, latents) for task in tasks])
            asked = [instruction_for(*task.words[number]) for task in tasks]
            with adapter.showing(latents):
                latents = drawn(predictor, adapter, noise, asked, settings, lambda step, made: predictor.host.check())
    edited: Tensor = predictor.decode(latents)
    return edited


def _noise(seed: int, number: int, like: Tensor) -> Tensor:
    return torch.randn(1, *like.shape[1:], generator=torch.Generator().manual_seed(seed + 1000 * number)).to(like)


@torch.no_grad()
def by_prompt(predictor: Any, tasks: Sequence[EditTask]) -> Tensor:
    """The base with the same words, from a part of the noise and over the whole picture, as a model must without an
    adapter that shows it the picture."""
    made = []
    for task in tasks:
        image = task.image
        for words in task.words:
            settings = tiny_settings(words[1], seed=task.seed, feather=0)
            everything = torch.ones(image.shape[-2:])
            image = restyle_region(predictor, image, everything, instruction_for(*words), settings=settings).image
        made.append(image)
    return torch.cat(made)


def measure(context: RowContext, tasks: Sequence[EditTask], result: Tensor) -> dict[str, Measurement]:
    """All numbers of one method in one repetition; what is said of things is the mean over things."""
    networks, count = context.networks, len(tasks)
    sources, truths = (torch.cat([getattr(task, name) for task in tasks]) for name in ("image", "truth"))
    unions = torch.stack([task.masks.amax(0) for task in tasks])
    owners = torch.tensor([at for at, task in enumerate(tasks) for _ in task.asked])
    masks, styles = torch.cat([task.masks for task in tasks]), [style for task in tasks for _, style in task.asked]
    match = regional_style_score(
        networks.text_image, networks.distance, result[owners], sources[owners], masks, styles
    ).rsm
    ground = regional_style_score(
        networks.text_image, networks.distance, result, sources, unions, [task.asked[0][1] for task in tasks]
    )
    inside = psnr_of(masked_mse(result[owners], truths[owners], masks, UNIT)).mean()
    outside = psnr_of(masked_mse(result, truths, 1 - unions, UNIT, "background")).mean()
    crops = torch.cat([
        region_crop(result[at : at + 1], tasks[at].scene.objects[index].box)
        for at, task in enumerate(tasks) for index, _ in task.asked
    ])  # fmt: skip
    # The things as they were: what is read as a style that was asked for lies outside them.
    grounds = torch.lerp(result, sources, unions[:, None])
    read = [one["style"] for one in context.classifier.read(crops)]
    around = [one["style"] for one in context.classifier.read(grounds)]
    styled = sum(a == b for a, b in zip(read, styles, strict=True)) / len(styles)
    asked = zip(around, tasks, strict=True)
    leaked = sum(style in {own for _, own in task.asked} for style, task in asked) / count
    numbers = [
        match, ground.lpips_bg, ground.mse_bg,
        Measurement(IN, float(inside), "", UNIT, len(styles)), Measurement(OUT, float(outside), "", UNIT, count),
        Measurement(check_tiny(STYLED, TINY_CLASSIFIER), styled, TINY_CLASSIFIER, UNIT, len(styles)),
        Measurement(check_tiny(LEAKED, TINY_CLASSIFIER), leaked, TINY_CLASSIFIER, UNIT, count),
    ]  # fmt: skip
    return {number.name: number for number in numbers}


@dataclass(frozen=True)
class Trained:
    """The adapters of the variants, and how many steps each was trained."""

    adapters: dict[str, EditingAdapter]
    steps: dict[str, int]


def train_variants(context: RowContext, folder: Path, minutes: float) -> Trained:
    """The common start, twice as many minutes long and unsupervised, and every variant from there; all resumable."""
    run = Run(folder, context.host.device, cancelled=_cancelled(context))
    setting = editing_setting(run)
    adapters: dict[str, EditingAdapter] = {}
    steps: dict[str, int] = {}
    begun: dict[str, Tensor] | None = None
    for name, attention in {START: None, **VARIANTS}.items():
        if begun is not None:
            setting.adapter.load_state_dict(begun)
        span = 2 * minutes if name == START else minutes
        state = name.removeprefix("trained: ").replace(" ", "-").replace(",", "")
        modules, loss = nn.ModuleDict({NAME: setting.adapter}), setting.loss(attention=attention, size=BATCH)
        trainer = run.trainer(f"variant-{state}", modules, loss, span, lr=1e-3, weight_decay=0.0, average=0.98)
        with setting.adapter.attached(setting.unet):
            trainer.run()
        context.host.check()
        averaged: Any = trainer.averaged[NAME]
        tensors = {key: value.clone() for key, value in averaged.tensors().items()}
        begun = tensors if begun is None else begun
        adapters[name], steps[name] = load_adapter(setting.unet, tensors), trainer.step
    return Trained(adapters, steps)


def _cancelled(context: RowContext) -> Callable[[], bool]:
    def cancelled() -> bool:
        context.host.check()
        return False

    return cancelled


@row(
    "editing",
    title="Editing by words, no mask at inference",
    paper="RegionRoute, section 8 and its ablation: style in the region, nothing outside, and what each loss is worth.",
)
def editing(context: RowContext) -> RowResult:
    """The shipped adapter on every kind of scene; what it is compared with on the easy ones."""
    count = QUICK_SCENES if context.quick else SCENES
    predictor = load_predictor(context.inner_host())
    easy = _rounds(context, lambda at, seed: tasks_of("easy", at, seed, count))
    methods: dict[str, Edit] = {
        SOURCE: lambda tasks: torch.cat([task.image for task in tasks]),
        AUTOENCODER: lambda tasks: predictor.decode(predictor.encode(torch.cat([task.truth for task in tasks]))),
        BASE: lambda tasks: by_prompt(predictor, tasks),
    }
    runs: list[tuple[str, Edit, list[list[EditTask]]]] = [(name, method, easy) for name, method in methods.items()]
    absent = {EXPERTS: "eight trainings; the one adapter follows all styles"}
    if bundled(NAME):
        shipped = bundled_adapter(predictor.network)
        runs += _kinds(context, count, lambda tasks: by_words(predictor, shipped, tasks), easy)
    else:
        absent[SHIPPED] = "its file is not here; train it: regionstyle train tinyworld editing"
    remarks = [
        f"{len(easy)} repetitions of {count} held-out scenes of each kind, all 8 styles in turn, {STEPS} steps, cfg 1. "
        "Nothing is pasted back: all of every picture but the source's comes out of the autoencoder, whose own error "
        f"is the row '{AUTOENCODER}'. LPIPS_bg and MSE_bg are against the source.",
    ]
    if context.train_minutes:
        made = train_variants(context, context.folder / "editing", context.train_minutes)
        runs += [(name, _by(predictor, adapter), easy) for name, adapter in made.adapters.items() if name != START]
        steps = ", ".join(f"{name.removeprefix('trained: ')} {number}" for name, number in made.steps.items())
        remarks.append(
            f"Variants: one training each, {context.train_minutes:g} minutes from one common start of "
            f"{2 * context.train_minutes:g} unsupervised minutes, batch {BATCH}; the spread is over scenes only. "
            f"Steps: {steps}."
        )
    else:
        absent |= dict.fromkeys(VARIANTS, "not trained: give --train-minutes")
    values, panels = _measured(context, predictor, runs)
    panels += [(f"truth: {task.words[0][0]}, {task.words[0][1]}", task.truth[0]) for task in easy[0][:SHOWN]]
    return RowResult(values, absent, panels, remarks, min(SHOWN, count), BETTER)


def _by(predictor: Any, adapter: EditingAdapter) -> Edit:
    return lambda tasks: by_words(predictor, adapter, tasks)


def _rounds(context: RowContext, tasks: Callable[[int, int], list[EditTask]]) -> list[list[EditTask]]:
    return [tasks(number, seed) for number, seed in enumerate(context.seeds)]


def _kinds(
    context: RowContext, count: int, edit: Edit, easy: list[list[EditTask]]
) -> list[tuple[str, Edit, list[list[EditTask]]]]:
    """The shipped adapter on scenes of every kind, and with two and three things at once."""
    runs = [(SHIPPED, edit, easy)]
    for kind in [kind for kind in KINDS if kind != "easy"]:
        rounds = _rounds(context, lambda at, seed, kind=kind: tasks_of(kind, at, seed, count))  # type: ignore[misc]
        runs.append((f"{SHIPPED}, {kind}", edit, rounds))
    for number in (2, 3):
        rounds = _rounds(context, lambda at, seed, n=number: tasks_with(n, at, seed, max(2, count // 2)))  # type: ignore[misc]
        runs.append((f"{SHIPPED}, {number} styles at once", edit, rounds))
    return runs


def _measured(
    context: RowContext, predictor: Any, runs: Sequence[tuple[str, Edit, list[list[EditTask]]]]
) -> tuple[dict[str, dict[str, list[Measurement]]], list[tuple[str, Tensor]]]:
    values: dict[str, dict[str, list[Measurement]]] = {}
    panels: list[tuple[str, Tensor]] = []
    with predictor.loaded():
        for name, edit, rounds in runs:
            progress = context.host.progress(len(rounds), name)
            for done, tasks in enumerate(rounds, 1):
                if not tasks:
                    raise RegionStyleError(f"report: got no scene for {name!r}, expected some. Ask for fewer.")
                with torch.no_grad():
                    result = edit(tasks).float().cpu().clamp(0, 1)
                for metric, number in measure(context, tasks, result).items():
                    values.setdefault(name, {}).setdefault(metric, []).append(number)
                if done == 1:
                    panels += [(f"{name}: {t.words[0][0]}, {t.words[0][1]}", p) for t, p in
                               list(zip(tasks, result, strict=True))[:SHOWN]]  # fmt: skip
                progress.update(done)
    return values, panels
