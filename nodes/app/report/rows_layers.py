"""Row "layers": how well the words' attention of each layer agrees with the exact masks, taught and untaught."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.attention.tap import AttentionTap
from ...engine.predictor.tokens import find_tokens
from ...metrics.measurement import Measurement
from ...tinyworld.bundled import bundled, load_predictor
from ...tinyworld.editing import NAME, EditingAdapter, bundled_adapter, instruction_for
from .editing_scenes import EditTask, tasks_of
from .rows import RowContext, RowResult, row

QUICK_SCENES, SCENES = 4, 34  # per repetition: about 100 in all
LEVEL = 0.5  # of noise: where layout is decided
THING, STYLE = "thing", "style"
RANKED, OVERLAP = "AUC", "IoU at log-odds 0"
BETTER = {RANKED: "higher", OVERLAP: "higher"}
KINDS_IN_TURN = ("easy", "small", "repeated")


def ranking(maps: Tensor, inside: Tensor) -> Tensor:
    """AUC of each map: how often a place inside scores above one outside, ties half. `[B,h,w]`, bool -> `[B]`."""
    each = []
    for values, mask in zip(maps.flatten(1), inside.flatten(1), strict=True):
        inner, outer = values[mask][:, None], values[~mask][None]
        each.append(((inner > outer).double() + 0.5 * (inner == outer)).mean())
    return torch.stack(each)


def overlap(maps: Tensor, inside: Tensor) -> Tensor:
    """IoU of the places with log-odds above 0 with a mask. `[B,h,w]`, bool -> `[B]`."""
    found = maps > 0
    both, either = ((found & inside).flatten(1).sum(1), (found | inside).flatten(1).sum(1))
    return both / either.clamp_min(1)


@torch.no_grad()
def maps_of(predictor: Any, adapter: EditingAdapter | None, tasks: Sequence[EditTask]) -> dict[str, dict[str, Tensor]]:
    """Layer -> words ("thing", "style") -> maps `[B,16,16]` of half-noised pictures; without an adapter the thing's
    words only, in a caption."""
    asked = [task.words[0] for task in tasks]
    prompts = [f"a {thing}" if adapter is None else instruction_for(thing, style) for thing, style in asked]
    text, latents = predictor.encode_text(prompts), predictor.encode(torch.cat([task.image for task in tasks]))
    kinds = (THING,) if adapter is None else (THING, STYLE)
    groups = torch.zeros(len(tasks), len(kinds), text.valid.shape[1], dtype=torch.bool)
    for at, words in enumerate(asked):
        for group in range(len(kinds)):
            groups[at, group, find_tokens(text, words[group], at)] = True
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(tasks[0].seed)).to(latents)
    with ExitStack() as stack:
        if adapter is not None:
            stack.enter_context(predictor.host.on_device(adapter))
            stack.enter_context(adapter.attached(predictor.network))
            stack.enter_context(adapter.showing(latents))
        tap = stack.enter_context(AttentionTap(predictor, groups, valid=text.valid))
        predictor.predict(predictor.add_noise(latents, noise, LEVEL), LEVEL, text)
    size = (int(latents.shape[-2]), int(latents.shape[-1]))
    full = {path: F.interpolate(seen.float(), size, mode="bilinear") for path, seen in tap.maps.items()}
    full["mean of all"] = torch.stack(list(full.values())).mean(0)
    return {path: {kind: seen[:, at] for at, kind in enumerate(kinds)} for path, seen in full.items()}


def measure(maps: Tensor, tasks: Sequence[EditTask]) -> dict[str, Measurement]:
    """Both numbers of one layer, over the things that fill at least one cell of the latent by half."""
    masks = torch.stack([F.adaptive_avg_pool2d(task.masks[:1], maps.shape[-1])[0] for task in tasks]) > 0.5
    usable = masks.flatten(1).any(1)
    maps, masks = maps[usable].cpu(), masks[usable]
    numbers = {RANKED: ranking(maps, masks).mean(), OVERLAP: overlap(maps, masks).double().mean()}
    return {name: Measurement(name, float(value), "", "", int(usable.sum())) for name, value in numbers.items()}


def tasks_in_turn(repetition: int, seed: int, count: int) -> list[EditTask]:
    """Easy, small and repeated things alike."""
    each = -(-count // len(KINDS_IN_TURN))
    return [task for kind in KINDS_IN_TURN for task in tasks_of(kind, repetition, seed, each)][:count]


@row(
    "layers",
    title="Which layers' attention knows the place",
    paper="RegionRoute supervises all layers alike; which of them are worth it is measured here.",
)
def layers(context: RowContext) -> RowResult:
    """Every text attention of the tiny denoiser, untaught (the thing's words) and as the shipped adapter has it."""
    count = QUICK_SCENES if context.quick else SCENES
    predictor = load_predictor(context.inner_host())
    absent = {} if bundled(NAME) else {"with the adapter": "its file is not here"}
    adapters = {"base": None} | ({"adapter": bundled_adapter(predictor.network)} if bundled(NAME) else {})
    values: dict[str, dict[str, list[Measurement]]] = {}
    rounds = [tasks_in_turn(number, seed, count) for number, seed in enumerate(context.seeds)]
    with predictor.loaded():
        for name, adapter in adapters.items():
            progress = context.host.progress(len(rounds), name)
            for number, tasks in enumerate(rounds):
                for path, kinds in maps_of(predictor, adapter, tasks).items():
                    for kind, maps in kinds.items():
                        for metric, found in measure(maps, tasks).items():
                            values.setdefault(f"{name}, {kind}: {path}", {}).setdefault(metric, []).append(found)
                progress.update(number + 1)
    remarks = [
        f"{len(context.seeds)} repetitions of {count} held-out scenes ({', '.join(KINDS_IN_TURN)} things in equal "
        f"parts), noise level {LEVEL:g}, log-odds brought to 16 x 16 places. AUC: how often a place inside the mask "
        "scores above one outside; 0.5 is chance. The mean is over the layers' maps, not over their numbers.",
    ]
    return RowResult(values, absent, (), remarks, better=BETTER)
