"""Row "harmonisation": who fits a foreground to its background best, on composites of photographs nobody trained on.

Trained R2R networks join through `EXTRA`: name -> a function that gives a harmoniser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...harmonizer.base import Harmonizer
from ...metrics.harmonization import HarmonizationScore, harmonization_table
from ...metrics.measurement import BYTES, Measurement
from ..evaluation.harmony import harmonized, known_methods, measured_composites, score_composites
from .rows import RowContext, RowResult, row

QUICK, FULL = 15, 60  # composites per repetition: every photograph with every shape of mask 1 and 4 times
COUNTED = ("PSNR", "MSE", "fMSE")
KEPT = "PSNR of what fits already"
SHOWN = 3
EXTRA: dict[str, Callable[[RowContext], Harmonizer]] = {}


@row(
    "harmonisation",
    title="Harmonisation of composites of photographs nobody trained on, by foreground ratio",
    paper="R2R, section 4 (arXiv:2508.09746)",
)
def harmonisation(context: RowContext) -> RowResult:
    """Every method on the same composites, a fresh set per repetition."""
    methods, absent = _methods(context)
    count = QUICK if context.quick else FULL
    values: dict[str, dict[str, list[Measurement]]] = {name: {} for name in methods}
    progress, done = context.host.progress(count * len(context.seeds), "harmonising"), 0

    def step() -> None:
        nonlocal done
        done += 1
        progress.update(done)

    for seed in context.seeds:
        scores, kept = score_composites(count, seed, methods, step)
        for name, own in scores.items():
            for measured in _measured(own):
                values[name].setdefault(measured.name, []).append(measured)
        mean = Measurement(KEPT, sum(kept) / len(kept), "", BYTES, len(kept))
        values["bundled"].setdefault(KEPT, []).append(mean)
    better = {metric: "higher" if "PSNR" in metric else "lower" for metric in values["bundled"]}
    return RowResult(values, absent, _panels(context.seeds[0], methods), _REMARKS, len(methods) + 1, better)


def _methods(context: RowContext) -> tuple[dict[str, Harmonizer | None], dict[str, str]]:
    """What is compared, and why some are not."""
    methods, absent = known_methods(), {}
    for name, make in EXTRA.items():
        try:
            methods[name] = make(context)
        except RegionStyleError as error:
            absent[name] = str(error)
    return methods, absent


def _measured(scores: Sequence[HarmonizationScore]) -> list[Measurement]:
    """Each metric over all composites and in each range of foreground ratio, named so."""
    return [
        Measurement(f"{one.name}, {line.ratio}", one.value, one.backbone, one.pixel_range, one.count)
        for line in harmonization_table(scores)
        for one in line.measurements
        if one.name in COUNTED
    ]


def _panels(seed: int, methods: dict[str, Harmonizer | None]) -> list[tuple[str, Tensor]]:
    """The first composites with every method's answer and the truth."""
    panels = []
    for one in measured_composites(SHOWN, seed):
        with torch.no_grad():
            panels += [(name, harmonized(how, one.composite, one.mask)[0]) for name, how in methods.items()]
        panels.append((f"truth: {one.photograph}, {one.shape}", one.truth))
    return panels


_REMARKS = (
    "Composites: pieces of three photographs (cat, coffee, flower) that no shipped network was trained on; masks are "
    "ellipses, boxes, blobs, strokes and segments of the picture; exposure, white balance, saturation and contrast of "
    "the foreground are changed at random.",
    "Where the border runs through one surface, Poisson blending is strong; statistics take the background's colours "
    "for the foreground's and are worse than doing nothing.",
)
