"""Row "least": local style by masked CLIP optimisation, and what it is compared with.

Held-out scenes of two and three things, each thing in a style of its own, whose exact filter is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ...engine.region.regions import Regions, region_of
from ...local_clip.presets import TINY
from ...local_clip.settings import LocalClipSettings
from ...local_clip.stylize import LocalClip, stylize_local
from ...metrics.measurement import UNIT, Measurement, check_tiny
from ...metrics.pixels import equal_outside, masked_mse, psnr_of
from ...metrics.text_image import masked_crop_clip_score
from ...tinyworld.bundled import load_bundled_expert, load_predictor
from ...tinyworld.world import Scene, restyle_object, scene
from ..edit import EditSettings, edit
from ..evaluation.scenes import as_image
from ..local_clip import tiny_local_clip
from ..local_model import tiny_settings
from ..painters.expert import ExpertPainter
from .rows import RowContext, RowResult, row

STYLES = ("mosaic", "neon", "pencil sketch")
THINGS = (2, 3)  # in the scenes of one repetition; each number has rows of its own
ITERATIONS, QUICK_ITERATIONS = 20, 6  # for each region; the paper takes 200
# few steps, at a rate eight times the published one, and patches of half the frame: the tiny CLIP knows whole things
SETTINGS = LocalClipSettings(preset=TINY, patches=4, patch=256, size=64, rate=4e-3, feather=0)
PIXELS = replace(SETTINGS, optimise="pixels", rate=2e-2)
SOURCE, EXPERT, TRUTH = "source, unchanged", "style LoRA", "exact filter"
WHOLE, IN_TURN, TOGETHER = "whole picture (CLIPstyler)", "LEAST, in turn", "LEAST, together"
NOISE, FROM_EXPERT = "pixels, from noise", "pixels, from the expert's result"
Values = dict[str, dict[str, list[Measurement]]]  # a method's row -> metric -> one for each repetition
BETTER = {"PSNR to the exact filter": "higher", "background MSE": "lower", "background equal": "higher"}
BETTER |= {"masked-crop CLIP score-tiny": "higher", "content distance-tiny": "lower"}


@dataclass(frozen=True)
class Task:
    """One scene, and the style of each of its things."""

    scene: Scene
    styles: tuple[str, ...]
    seed: int

    @property
    def image(self) -> Tensor:
        return as_image(self.scene)

    @property
    def truth(self) -> Tensor:
        """Every thing through the exact filter of its style, `[1,3,H,W]`."""
        made = self.scene
        for index, style in enumerate(self.styles):
            made = restyle_object(made, index, style)
        return as_image(made)

    @property
    def regions(self) -> Regions:
        """The things that can be seen, by their exact masks."""
        things = zip(self.scene.objects, self.styles, strict=True)
        items = [region_of(thing.phrase, torch.from_numpy(thing.mask), style=style) for thing, style in things]
        seen = tuple(item for item in items if bool((item.mask > 0.5).any()))
        return Regions(seen, int(self.image.shape[-2]), int(self.image.shape[-1]))


def tasks_of(repetition: int, seed: int, things: Sequence[int]) -> list[Task]:
    """One scene for each number of things, others in every repetition."""
    numbers = range(repetition * len(things), (repetition + 1) * len(things))
    scenes = [scene(number, split="held-out", count=count) for number, count in zip(numbers, things, strict=True)]
    return [Task(made, STYLES[: len(made.objects)], seed) for made in scenes]


def optimised(by: LocalClip, task: Task, settings: LocalClipSettings, start: Tensor | None = None) -> Tensor:
    """Local CLIP style on the task's regions."""
    return stylize_local(task.image, task.regions, by, replace(settings, seed=task.seed), start).images


def everywhere(by: LocalClip, task: Task, settings: LocalClipSettings) -> Tensor:
    """The whole picture towards each of the styles in turn, as a method without masks has to."""
    size = (int(task.image.shape[-2]), int(task.image.shape[-1]))
    items = tuple(region_of("everything", torch.ones(size), style=region.style) for region in task.regions)
    return stylize_local(task.image, Regions(items, *size), by, replace(settings, seed=task.seed)).images


def repainted(predictor: Any, task: Task) -> Tensor:
    """Each thing by its style's LoRA."""
    painter = ExpertPainter(predictor, tiny_settings)
    with torch.no_grad(), predictor.loaded():
        return edit(task.image, task.regions, painter, EditSettings(seed=task.seed, feather=0)).image


def measure(context: RowContext, tasks: Sequence[Task], results: Sequence[Tensor]) -> dict[str, Measurement]:
    """All numbers of one method in one repetition: means over its regions, or over its pictures' backgrounds."""
    networks, rows, outside = context.networks, [], []
    for task, result in zip(tasks, results, strict=True):
        image, union = task.image, task.regions.union()
        outside.append([float(masked_mse(result, image, (union == 0).float(), UNIT, "background").mean()),
                        float(equal_outside(result, image, union).double().mean())])  # fmt: skip
        for region in task.regions:
            mask = region.mask[None]
            words = [f"a picture in {region.style} style"]
            rows.append([
                float(masked_crop_clip_score(networks.text_image, result, mask, words)),
                float(networks.distance.masked(result, image, mask)),
                float(psnr_of(masked_mse(result, task.truth, mask, UNIT))),
            ])  # fmt: skip
    score, content, fidelity = torch.tensor(rows).double().mean(0).tolist()
    error, equal = torch.tensor(outside).double().mean(0).tolist()
    clip, distance, count = networks.text_image.backbone, networks.distance.backbone, len(rows)
    measurements = [
        Measurement(check_tiny("masked-crop CLIP score", clip), score, clip, UNIT, count),
        Measurement(check_tiny("content distance", distance), content, distance, UNIT, count),
        Measurement("PSNR to the exact filter", fidelity, "", UNIT, count),
        Measurement("background MSE", error, "", UNIT, len(tasks)),
        Measurement("background equal", equal, "", UNIT, len(tasks)),
    ]
    return {measurement.name: measurement for measurement in measurements}


@row(
    "least",
    title="Local style from words: masked CLIP optimisation",
    paper="LEAST, section 4: lower CLIP score than whole-picture CLIPstyler, preferred because the rest stays.",
)
def least(context: RowContext) -> RowResult:
    """Every method on the same scenes and seeds."""
    iterations = QUICK_ITERATIONS if context.quick else ITERATIONS
    rounds = [tasks_of(repetition, seed, THINGS) for repetition, seed in enumerate(context.seeds)]
    predictor = load_predictor(context.inner_host(), [load_bundled_expert(style) for style in STYLES])
    by = LocalClip(tiny_local_clip(), context.inner_host())
    network, pixels = replace(SETTINGS, iterations=iterations), replace(PIXELS, iterations=iterations)
    methods: dict[str, Callable[[Task], Tensor]] = {
        SOURCE: lambda task: task.image,
        WHOLE: lambda task: everywhere(by, task, network),
        IN_TURN: lambda task: optimised(by, task, network),
        TOGETHER: lambda task: optimised(by, task, replace(network, order="together")),
        NOISE: lambda task: optimised(by, task, replace(pixels, start="noise")),
        FROM_EXPERT: lambda task: optimised(by, task, pixels, repainted(predictor, task)),
        EXPERT: lambda task: repainted(predictor, task),
    }
    values: Values = {}
    shown: dict[str, Tensor] = {}
    for name, method in methods.items():
        progress = context.host.progress(len(rounds), name)
        for repetition, tasks in enumerate(rounds):
            for task in tasks:
                result = method(task).float().cpu().clamp(0, 1)
                for metric, measurement in measure(context, [task], [result]).items():
                    values.setdefault(of_things(name, task), {}).setdefault(metric, []).append(measurement)
                shown.setdefault(of_things(name, task), result[0])
            progress.update(repetition + 1)
    shown |= {of_things(TRUTH, task): task.truth[0] for task in rounds[0]}
    by_things = dict(sorted(values.items(), key=lambda row: row[0].rpartition(", ")[2]))
    return RowResult(by_things, {}, list(shown.items()), _remarks(len(rounds), iterations, values), 4, BETTER)


def of_things(name: str, task: Task) -> str:
    """What a method's row for scenes of so many things is called."""
    return f"{name}, {len(task.styles)} things"


def _remarks(repetitions: int, iterations: int, values: Values) -> list[str]:
    return [
        f"{repetitions} repetitions of scenes with {' and '.join(map(str, THINGS))} things, each in a style of its own "
        f"({', '.join(STYLES)}), by exact masks; {iterations} iterations for each region (the paper: 200), preset "
        "'improved-tiny', 4 patches, 64 pixels. The whole picture is optimised towards each of the styles in turn.",
        *(_order(values, count) for count in THINGS),
        "The CLIP that it was optimised with judges it here, which flatters every method that optimises.",
    ]


def _order(values: Values, count: int) -> str:
    """Whether the paper's order appears in scenes of so many things: a CLIP score below the whole picture's."""
    inside, whole = (
        fmean(m.value for m in values[f"{name}, {count} things"]["masked-crop CLIP score-tiny"])
        for name in (IN_TURN, WHOLE)
    )
    appears = "appears" if inside < whole else "does not appear"
    return (
        f"{count} things: the paper's order, a CLIP score below the whole picture's, {appears}: {inside:.2f} against "
        f"{whole:.2f}."
    )
