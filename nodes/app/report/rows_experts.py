"""Rows "two-styles" and "three-styles": several styles on several things of one picture, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...engine.language.region_prompt import region_prompt
from ...engine.predictor.sampling import ddim, partial_times
from ...engine.region.region import Region
from ...engine.region.regions import Regions
from ...metrics.measurement import UNIT, Measurement, check_tiny
from ...metrics.pixels import masked_mse
from ...metrics.regional_style import RegionalStyleSettings, regional_style_match
from ...router.experts import Experts, StackedExpert
from ...router.gates.region_gates import region_gates_of, route_regions
from ...router.regional_prompts import each_its_own, joined
from ...tinyworld.bundled import STRENGTHS, USUAL_STRENGTH, expert_files, load_bundled_expert, load_predictor
from ...tinyworld.clip import region_crop
from ...tinyworld.world import Scene, scene
from ..evaluation.scenes import as_image
from ..metric_networks import TINY_CLASSIFIER
from .comfy_hook_loras import ComfyHookLoras
from .rows import RowContext, RowResult, row

QUICK_SCENES, SCENES, STEPS = 2, 12, 6  # scenes per repetition
SMALLEST = 250  # pixels of a thing that counts: less than 1.5 % of the picture shows no texture
BASE, EDGE = "a picture", 4  # half a latent cell
HOOKS, SOFT, HARD = "ComfyUI hook LoRAs with masks", "RegionStyle, soft masks", "RegionStyle, hard masks"
TOGETHER = "RegionStyle, without isolation"
LEAK = "leak of the other style"
WITHOUT_ROWS = "RegionStyle, without the text-row rule"


@dataclass(frozen=True)
class Scenery:
    """A scene and the style of each of its things; image `[1,3,H,W]`, masks `[H,W]`."""

    scene: Scene
    styles: tuple[str, ...]
    seed: int

    @property
    def image(self) -> Tensor:
        return as_image(self.scene)

    @property
    def regions(self) -> Regions:
        things = zip(self.scene.objects, self.styles, strict=True)
        items = [Region(o.phrase, o.box, torch.from_numpy(o.mask), style) for o, style in things]
        return Regions(tuple(items), *self.image.shape[-2:])

    @property
    def strength(self) -> float:
        """How much is redrawn: one number for all styles, the mean of what is best for each."""
        return sum(STRENGTHS.get(style, USUAL_STRENGTH) for style in self.styles) / len(self.styles)

    @property
    def sentence(self) -> str:
        """One prompt that says it all."""
        return " and ".join(f"a {o.phrase} in {s} style" for o, s in zip(self.scene.objects, self.styles, strict=True))


def scenery_of(repetition: int, seed: int, things: int, count: int, styles: Sequence[str]) -> list[Scenery]:
    """Held-out scenes with so many things, each large enough to show a style, other scenes in every repetition."""
    sceneries: list[Scenery] = []
    number = repetition * 10000
    while len(sceneries) < count:
        drawn = scene(number, split="held-out", count=things)
        if all(thing.mask.sum() >= SMALLEST for thing in drawn.objects):
            first = len(sceneries) * things
            chosen = tuple(styles[(first + index) % len(styles)] for index in range(things))
            sceneries.append(Scenery(drawn, chosen, seed))
        number += 1
    return sceneries


def routed(predictor: Any, experts: Experts, task: Scenery, *, edge: int, isolated: bool) -> Tensor:
    """The whole picture noised in part and denoised once, every thing by its expert. Nothing is pasted back."""
    plan = route_regions(experts, task.regions, edge=edge)
    gates = region_gates_of(experts, plan)
    if isolated:
        prompts = [BASE, *(region_prompt(routed_style.things, routed_style.style) for routed_style in plan)]
        texts = [predictor.encode_text([words]) for words in prompts]
        gates, text = each_its_own(gates, plan, texts), joined(texts)
    else:
        text = predictor.encode_text([task.sentence])
    latent = predictor.encode(task.image)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(task.seed)).to(latent)
    times = partial_times(task.strength, STEPS)
    start = predictor.add_noise(latent, noise, times[0])
    denoised = ddim(predictor, start, times, text, gate=gates, on_step=lambda step, seen: predictor.host.check())
    return predictor.decode(denoised)


def measure(context: RowContext, tasks: Sequence[Scenery], results: Sequence[Tensor]) -> dict[str, Measurement]:
    """All numbers of one method in one repetition: style per thing, background per picture."""
    text_image, count = context.networks.text_image, sum(len(task.styles) for task in tasks)
    match, own, other, error = 0.0, 0, 0, 0.0
    for task, result in zip(tasks, results, strict=True):
        masks = torch.stack([region.mask for region in task.regions])
        each = result.expand(len(masks), -1, -1, -1)
        match += float(regional_style_match(text_image, each, masks, task.styles, RegionalStyleSettings()).sum())
        crops = torch.cat([region_crop(result, thing.box) for thing in task.scene.objects])
        read = [style_read["style"] for style_read in context.classifier.read(crops)]
        own += sum(style_read == style for style_read, style in zip(read, task.styles, strict=True))
        other += sum(
            style_read != s and style_read in task.styles for style_read, s in zip(read, task.styles, strict=True)
        )
        union = task.regions.union()
        error += float(masked_mse(result, task.image, 1 - union, UNIT, "background").mean())
    measurements = [
        Measurement(check_tiny("RSM", text_image.backbone), match / count, text_image.backbone, UNIT, count),
        Measurement(check_tiny("style recognised", TINY_CLASSIFIER), own / count, TINY_CLASSIFIER, UNIT, count),
        Measurement(check_tiny(LEAK, TINY_CLASSIFIER), other / count, TINY_CLASSIFIER, UNIT, count),
        Measurement("MSE_bg", error / len(tasks), "", UNIT, len(tasks)),
    ]  # fmt: skip
    return {measurement.name: measurement for measurement in measurements}


def compare(context: RowContext, things: int) -> RowResult:
    """Every method on the same scenes, styles and seeds."""
    styles, count = tuple(expert_files()), QUICK_SCENES if context.quick else SCENES
    experts = Experts(tuple(StackedExpert(load_bundled_expert(style), style, (style,)) for style in styles))
    rounds = [scenery_of(i, seed, things, count, styles) for i, seed in enumerate(context.seeds)]
    predictor = load_predictor(context.inner_host(), [item.load(torch.nn.Module()) for item in experts])
    why = "the rule is for the text rows of SD3 and FLUX; the tiny world is a U-Net, which has none"
    absent: dict[str, str] = {WITHOUT_ROWS: why}
    values: dict[str, dict[str, list[Measurement]]] = {}
    panels: list[tuple[str, Tensor]] = []

    def run(name: str, method: Callable[[Scenery], Tensor]) -> None:
        progress, done = context.host.progress(len(rounds) * count, name), 0
        for tasks in rounds:
            results = []
            for task in tasks:
                with torch.no_grad():
                    results.append(method(task).float().cpu().clamp(0, 1))
                done += 1
                progress.update(done)
            for metric, measurement in measure(context, tasks, results).items():
                values.setdefault(name, {}).setdefault(metric, []).append(measurement)
            if tasks is rounds[0]:
                panels.extend((f"{name}: {t.sentence}", r[0]) for t, r in zip(tasks[:3], results, strict=False))

    with predictor.loaded():
        for name, edge, isolated in ((SOFT, EDGE, True), (HARD, 0, True), (TOGETHER, EDGE, False)):
            run(name, lambda task, edge=edge, isolated=isolated: routed(  # type: ignore[misc]
                predictor, experts, task, edge=edge, isolated=isolated))  # fmt: skip
    with _hooks(context, absent) as hooks:
        if hooks is not None:
            run(HOOKS, lambda task: hooks.restyle(task, STEPS))
    remarks = [
        f"{len(rounds)} repetitions of {count} held-out scenes with {things} things each, another style on every "
        f"thing; exact masks; {STEPS} steps on the whole picture, nothing pasted back, so that MSE_bg shows what each "
        "method does outside the things.",
        "Leak of the other style: share of things that the classifier reads as a style asked for another thing. "
        "Without isolation: one prompt that says it all, read everywhere.",
    ]  # fmt: skip
    better = {check_tiny(LEAK, TINY_CLASSIFIER): "lower"}
    return RowResult(values, absent, panels, remarks, min(3, count), better)


def _hooks(context: RowContext, absent: dict[str, str]) -> AbstractContextManager[ComfyHookLoras | None]:
    if not context.comfy:
        absent[HOOKS] = "switched off"
        return nullcontext()
    try:
        return ComfyHookLoras()
    except RegionStyleError as error:
        absent[HOOKS] = str(error)
        return nullcontext()


PAPER = "RegionRoute, experts routed to regions: several styles on several things in one pass."


@row("two-styles", title="Two styles on two things", paper=PAPER)
def two_styles(context: RowContext) -> RowResult:
    """Two things, a style each."""
    return compare(context, 2)


@row("three-styles", title="Three styles on three things", paper=PAPER)
def three_styles(context: RowContext) -> RowResult:
    """Three things, a style each."""
    return compare(context, 3)
