"""Row "baselines": what the obvious ways to restyle one thing give, beside this pack's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.adapters.gates import Gates
from ...engine.errors import RegionStyleError
from ...engine.region.regions import region_of
from ...grounding.finders.attention import AttentionSettings
from ...grounding.finders.attention_finder import ground_by_attention
from ...metrics.measurement import UNIT, Measurement, check_tiny
from ...metrics.pixels import masked_mse, psnr_of
from ...metrics.regional_style import regional_style_score
from ...router.restyle import restyle_region
from ...tinyworld.bundled import expert_files, load_bundled_expert, load_predictor
from ...tinyworld.clip import region_crop
from ...tinyworld.world import Scene, restyle_object, scene
from ..edit import EditSettings, edit
from ..evaluation.scenes import as_image
from ..local_model import tiny_settings
from ..metric_networks import TINY_CLASSIFIER
from ..painters.expert import ExpertPainter
from .comfy_hook_lora import ComfyHookLora
from .rows import RowContext, RowResult, row

QUICK_SCENES, SCENES = 3, 14  # per repetition; 14: every style twice
QUICK_STYLES = ("mosaic", "neon")
PROMPT_CFG = 4.0  # without an expert the words must do it
UNCHANGED, PROMPT_ONLY, WHOLE = "source, unchanged", "prompt only, partial noise", "style LoRA, whole picture"
COMPOSITE, HOOKS = "style LoRA, composited by the mask", "ComfyUI hook LoRA with masks"
TRUTH, SHOWN = "exact truth", 3  # tasks whose pictures are shown
BETTER = {"style recognised-tiny": "higher", "PSNR to the truth in the region": "higher", "background equal": "higher"}
OURS, OURS_FOUND = "RegionStyle, given mask", "RegionStyle, found by attention"


@dataclass(frozen=True)
class Task:
    """One scene, the object to restyle, the style, and the exact truth; image and truth `[1,3,H,W]`, mask `[H,W]`."""

    scene: Scene
    index: int
    style: str
    seed: int

    @property
    def phrase(self) -> str:
        return self.scene.objects[self.index].phrase

    @property
    def image(self) -> Tensor:
        return as_image(self.scene)

    @property
    def truth(self) -> Tensor:
        return as_image(restyle_object(self.scene, self.index, self.style))

    @property
    def mask(self) -> Tensor:
        return torch.from_numpy(self.scene.objects[self.index].mask)

    @property
    def prompt(self) -> str:
        return f"a {self.phrase} in {self.style} style"


Method = Callable[[Any, Task], Tensor]


def tasks_of(repetition: int, seed: int, count: int, styles: Sequence[str]) -> list[Task]:
    """Held-out scenes, others in every repetition, the styles in turn, the last (uncovered) object of each."""
    numbers = range(repetition * count, (repetition + 1) * count)
    scenes = [(number, scene(number, split="held-out")) for number in numbers]
    return [Task(scenery, len(scenery.objects) - 1, styles[number % len(styles)], seed) for number, scenery in scenes]


def unchanged(predictor: Any, task: Task) -> Tensor:
    return task.image


def prompt_only(predictor: Any, task: Task) -> Tensor:
    """The whole picture noised in part and denoised with the words alone (SDEdit)."""
    settings = tiny_settings(task.style, seed=task.seed, feather=0, cfg=PROMPT_CFG)
    everything = torch.ones_like(task.mask)
    return restyle_region(predictor, task.image, everything, task.prompt, negative="", settings=settings).image


def whole_picture(predictor: Any, task: Task) -> Tensor:
    """The style's LoRA at full strength on the whole picture."""
    settings = tiny_settings(task.style, seed=task.seed, feather=0)
    everything = torch.ones_like(task.mask)
    return restyle_region(
        predictor,
        task.image,
        everything,
        f"a picture in {task.style} style",
        settings=settings,
        gate=lambda region, cut: Gates({task.style: 1.0}),
    ).image


def composited(whole: Tensor, task: Task) -> Tensor:
    """That picture laid over the source through the mask."""
    return torch.lerp(task.image, whole, task.mask[None, None])


def given_mask(predictor: Any, task: Task) -> Tensor:
    return _ours(predictor, task, task.mask)


def found_by_attention(predictor: Any, task: Task) -> Tensor:
    """The mask from the phrase; a thing that is not found leaves the picture as it is and counts so."""
    grounding = ground_by_attention(predictor, task.image, task.phrase, settings=AttentionSettings(seed=task.seed))
    return _ours(predictor, task, grounding.mask) if grounding.found else task.image


def _ours(predictor: Any, task: Task, mask: Tensor) -> Tensor:
    region, painter = region_of(task.phrase, mask, style=task.style), ExpertPainter(predictor, tiny_settings)
    return edit(task.image, [region], painter, EditSettings(seed=task.seed, feather=0)).image


METHODS: dict[str, Method] = {
    UNCHANGED: unchanged,
    PROMPT_ONLY: prompt_only,
    WHOLE: whole_picture,
    OURS: given_mask,
    OURS_FOUND: found_by_attention,
}


def measure(context: RowContext, tasks: Sequence[Task], results: Sequence[Tensor]) -> dict[str, Measurement]:
    """All numbers of one method in one repetition, over its tasks."""
    result, source = torch.cat(list(results)), torch.cat([task.image for task in tasks])
    truth, mask = torch.cat([task.truth for task in tasks]), torch.stack([task.mask for task in tasks])
    networks = context.networks
    score = regional_style_score(
        networks.text_image, networks.distance, result, source, mask, [task.style for task in tasks]
    )
    region = psnr_of(masked_mse(result, truth, mask, UNIT)).mean()
    count = len(tasks)
    measurements = [
        *score.all(),
        Measurement(check_tiny("style recognised", TINY_CLASSIFIER), _recognised(context, tasks, result),
                    TINY_CLASSIFIER, UNIT, count),
        Measurement("PSNR to the truth in the region", float(region), "", UNIT, count),
        Measurement("background equal", _equal(result, source, mask), "", UNIT, count),
    ]  # fmt: skip
    return {measurement.name: measurement for measurement in measurements}


def _recognised(context: RowContext, tasks: Sequence[Task], result: Tensor) -> float:
    """Share of pictures whose region the classifier reads as the asked style."""
    boxes = [task.scene.objects[task.index].box for task in tasks]
    crops = torch.cat([region_crop(image[None], box) for image, box in zip(result, boxes, strict=True)])
    read = context.classifier.read(crops)
    return sum(read_as["style"] == task.style for read_as, task in zip(read, tasks, strict=True)) / len(tasks)


def _equal(result: Tensor, source: Tensor, mask: Tensor) -> float:
    """Share of the pixels with mask exactly 0 that equal the source bit for bit."""
    outside = mask == 0
    return float((result == source).all(1)[outside].double().mean())


@row(
    "baselines",
    title="Restyling one thing: baselines",
    paper="RegionRoute, section 8: style inside the region, nothing outside it.",
)
def baselines(context: RowContext) -> RowResult:
    """Every method on the same scenes, styles and seeds."""
    styles = QUICK_STYLES if context.quick else tuple(expert_files())
    count = QUICK_SCENES if context.quick else SCENES
    rounds = [tasks_of(i, seed, count, styles) for i, seed in enumerate(context.seeds)]
    predictor = load_predictor(context.inner_host(), [load_bundled_expert(style) for style in styles])
    values: dict[str, dict[str, list[Measurement]]] = {}
    absent: dict[str, str] = {}
    shown: dict[str, list[Tensor]] = {}

    def run(methods: dict[str, Method]) -> None:
        for method, results in _all_results(context, predictor, methods, rounds):
            _add(values.setdefault(method, {}), [measure(context, t, r) for t, r in zip(rounds, results, strict=True)])
            shown[method] = results[0][:SHOWN]

    with predictor.loaded():
        run(METHODS)
    with _comfy(context, absent) as hooks:
        run({} if hooks is None else {HOOKS: hooks.restyle})
    shown[TRUTH] = [task.truth for task in rounds[0][:SHOWN]]
    remarks = [
        f"{len(rounds)} repetitions of {count} held-out scenes each, with other scenes and other noise in every "
        f"repetition; styles {', '.join(styles)}. Mean and sample standard deviation over the repetitions.",
        "Background equal: share of the pixels where the mask is 0 that equal the source bit for bit.",
    ]
    return RowResult(values, absent, _panels(rounds[0], shown), remarks, len(shown), BETTER)


def _panels(tasks: Sequence[Task], shown: dict[str, list[Tensor]]) -> list[tuple[str, Tensor]]:
    """A line per task, a column per method; the first column names the task."""
    first, *others = shown
    panels: list[tuple[str, Tensor]] = []
    for index, picture in enumerate(shown[first]):
        panels.append((f"{tasks[index].prompt}: {first}", picture[0]))
        panels += [(method, shown[method][index][0]) for method in others]
    return panels


def _add(into: dict[str, list[Measurement]], rounds: Sequence[dict[str, Measurement]]) -> None:
    for measured in rounds:
        for name, measurement in measured.items():
            into.setdefault(name, []).append(measurement)


def _all_results(
    context: RowContext, predictor: Any, methods: dict[str, Method], rounds: Sequence[Sequence[Task]]
) -> Iterator[tuple[str, list[list[Tensor]]]]:
    """Method by method, its pictures per repetition; the composite needs no run of its own."""
    count = sum(len(tasks) for tasks in rounds)
    for name, method in methods.items():
        progress, done = context.host.progress(count, name), 0
        results: list[list[Tensor]] = []
        for tasks in rounds:
            results.append([])
            for task in tasks:
                with torch.no_grad():
                    results[-1].append(method(predictor, task).float().cpu().clamp(0, 1))
                done += 1
                progress.update(done)
        yield name, results
        if name == WHOLE:
            pairs = zip(results, rounds, strict=True)
            yield COMPOSITE, [[composited(w, t) for w, t in zip(r, ts, strict=True)] for r, ts in pairs]


def _comfy(context: RowContext, absent: dict[str, str]) -> AbstractContextManager[ComfyHookLora | None]:
    """ComfyUI's baseline where it can run; otherwise the reason is written down."""
    if not context.comfy:
        absent[HOOKS] = "switched off"
        return nullcontext()
    try:
        return ComfyHookLora()
    except RegionStyleError as error:
        absent[HOOKS] = str(error)
        return nullcontext()
