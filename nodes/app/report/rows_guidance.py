"""Row "guidance": attention steered while sampling, on a network that was never taught styles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...engine.predictor.sampling import ddim, partial_times
from ...engine.region.region import Region
from ...engine.region.regions import Regions
from ...metrics.measurement import UNIT, Measurement, check_tiny
from ...metrics.pixels import masked_mse, psnr_of
from ...sampler.guidance import LocalGuide
from ...sampler.settings import FORMS, GuidanceSettings
from ...tinyworld.bundled import expert_files, load_predictor
from ...tinyworld.clip import region_crop
from ..metric_networks import TINY_CLASSIFIER
from .rows import RowContext, RowResult, row
from .rows_baselines import Task, tasks_of

QUICK_SCENES, SCENES, STEPS = 2, 7, 6  # scenes per repetition
STRENGTH, CFG = 0.5, 4.0  # of the edit: the words must do it
SMALLEST = 250  # pixels of a thing that counts
NONE, SHOWN = "no guidance", 3
IN, OUT = "PSNR to the truth in the region", "PSNR to the truth outside"
PLACED, STYLED, LEAKED = "thing in its place, from noise", "style recognised in the region", "style outside"
METHODS = (NONE, *FORMS)


def guide_of(predictor: Any, task: Task, form: str) -> LocalGuide:
    """The guidance of one thing by its own mask; composition over all steps, as it is usually run."""
    regions = Regions((Region(task.phrase, (0, 0, 1, 1), task.mask, task.style),), *task.image.shape[-2:])
    end = 1.0 if form == "composition" else 0.5
    settings = GuidanceSettings(form=form if form != NONE else "bias", end=end)
    return LocalGuide(predictor, predictor.encode_text([_prompt(task)]), regions, settings, off=form == NONE)


def _prompt(task: Task) -> str:
    """The whole picture's prompt: the thing in its style, and the ground."""
    return f"{task.prompt} on {task.scene.background} background"


@torch.no_grad()
def sampled(predictor: Any, task: Task, form: str, strength: float) -> tuple[Tensor, LocalGuide]:
    """The picture drawn anew from so much noise, and the guidance it was drawn with; 1: from noise alone."""
    guide = guide_of(predictor, task, form)
    text, negative = predictor.encode_text([_prompt(task)]), predictor.encode_text([""])
    latent = predictor.encode(task.image)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(task.seed)).to(latent)
    times = partial_times(strength, STEPS)
    start = noise if strength == 1 else predictor.add_noise(latent, noise, times[0])
    made = ddim(
        predictor, start, times, text, negative=negative, cfg=CFG, guide=guide,
        on_step=lambda step, seen: predictor.host.check(),
    )  # fmt: skip
    return predictor.decode(made).float().cpu(), guide


def measure(
    context: RowContext,
    tasks: Sequence[Task],
    edits: Sequence[Tensor],
    drawn: Sequence[Tensor],
    losses: Sequence[float],
) -> dict[str, Measurement]:
    """All numbers of one method in one repetition; edits, drawn: pictures from part and all of the noise."""
    count, result = len(tasks), torch.cat(list(edits))
    truth, mask = torch.cat([task.truth for task in tasks]), torch.stack([task.mask for task in tasks])
    inside = psnr_of(masked_mse(result, truth, mask, UNIT)).mean()
    outside = psnr_of(masked_mse(result, truth, 1 - mask, UNIT, "background")).mean()
    sources = torch.cat([task.image for task in tasks])
    grounds = torch.lerp(result, sources, mask[:, None])  # the thing as it was: what is left of the style is a leak
    shares = {
        STYLED: _share(context, tasks, _crops(tasks, edits), "style", [task.style for task in tasks]),
        LEAKED: _share(context, tasks, grounds, "style", [task.style for task in tasks]),
        PLACED: _placed(context, tasks, drawn),
    }
    numbers = [Measurement(IN, float(inside), "", UNIT, count), Measurement(OUT, float(outside), "", UNIT, count)]
    numbers += [
        Measurement(check_tiny(name, TINY_CLASSIFIER), share, TINY_CLASSIFIER, UNIT, count)
        for name, share in shares.items()
    ]
    numbers.append(Measurement("attention loss at the last step", sum(losses) / count, "", UNIT, count))
    return {number.name: number for number in numbers}


def _crops(tasks: Sequence[Task], pictures: Sequence[Tensor]) -> Tensor:
    """Each thing's box of its picture."""
    pairs = zip(tasks, pictures, strict=True)
    return torch.cat([region_crop(picture, task.scene.objects[task.index].box) for task, picture in pairs])


def _share(context: RowContext, tasks: Sequence[Task], pictures: Tensor, label: str, wanted: Sequence[str]) -> float:
    read = [one[label] for one in context.classifier.read(pictures)]
    return sum(given == word for given, word in zip(read, wanted, strict=True)) / len(tasks)


def _placed(context: RowContext, tasks: Sequence[Task], drawn: Sequence[Tensor]) -> float:
    """Share of things whose shape and colour are read in their box, meaned over both."""
    crops = _crops(tasks, drawn)
    things = [task.scene.objects[task.index] for task in tasks]
    shapes = _share(context, tasks, crops, "shape", [thing.shape for thing in things])
    return (shapes + _share(context, tasks, crops, "color", [thing.color for thing in things])) / 2


def _tasks(repetition: int, seed: int, count: int) -> list[Task]:
    """Things large enough to show a style, other scenes in every repetition."""
    found = tasks_of(repetition, seed, 8 * count, tuple(expert_files()))
    return [task for task in found if float(task.mask.sum()) >= SMALLEST][:count]


@row(
    "guidance",
    title="Attention steered while sampling, nothing taught",
    paper="RegionRoute, its attention losses used at sampling time instead of in training.",
)
def guidance(context: RowContext) -> RowResult:
    """No guidance and the three forms on the same scenes, words and noise."""
    count = QUICK_SCENES if context.quick else SCENES
    rounds = [_tasks(number, seed, count) for number, seed in enumerate(context.seeds)]
    predictor = load_predictor(context.inner_host())
    values: dict[str, dict[str, list[Measurement]]] = {}
    panels: list[tuple[str, Tensor]] = []
    with predictor.loaded():
        for form in METHODS:
            progress, done = context.host.progress(len(rounds) * count, form), 0
            for tasks in rounds:
                edits, drawn, losses = [], [], []
                for task in tasks:
                    edits.append(sampled(predictor, task, form, STRENGTH)[0])
                    picture, guide = sampled(predictor, task, form, 1.0)
                    drawn.append(picture)
                    losses.append(guide.recorder.steps[-1].total)
                    done += 1
                    progress.update(done)
                for metric, number in measure(context, tasks, edits, drawn, losses).items():
                    values.setdefault(form, {}).setdefault(metric, []).append(number)
                if tasks is rounds[0]:
                    shown = zip(tasks[:SHOWN], drawn, strict=False)
                    panels.extend((f"{form}: a {task.phrase}, from noise", picture[0]) for task, picture in shown)
    remarks = [
        f"{len(rounds)} repetitions of {count} held-out scenes, exact masks, {STEPS} steps, cfg {CFG:g}. The base "
        "alone: no style expert is attached, and the tiny world's denoiser was never taught a style's word, so "
        "styles are not expected; what guidance moves is where things are drawn.",
        f"Edits start from {STRENGTH:g} of the noise, with nothing pasted back; {PLACED}: shape and colour read in the "
        "box of the mask after drawing from noise alone.",
    ]
    better = {
        IN: "higher", OUT: "higher", check_tiny(STYLED, TINY_CLASSIFIER): "higher",
        check_tiny(LEAKED, TINY_CLASSIFIER): "lower", check_tiny(PLACED, TINY_CLASSIFIER): "higher",
        "attention loss at the last step": "lower",
    }  # fmt: skip
    return RowResult(values, panels=panels, remarks=remarks, columns=min(SHOWN, count), better=better)
