"""Row "r2r": R2R's own networks, few channels wide, trained from nothing, with and without each of its parts.

Every repetition makes a training set of its own from the training photographs, trains all stages on it, and measures on
composites of photographs that were not in it.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from torch import Tensor

from ...engine.host.base import Host
from ...harmonizer.base import Harmonizer
from ...harmonizer.data.composites import Composite, held_out_composites
from ...harmonizer.data.photograph_set import make_photograph_set
from ...harmonizer.data.photographs import HELD_OUT
from ...harmonizer.training.small import VARIANTS, SmallSettings, high_frequency_psnr, train_small, variants
from ...metrics.harmonization import HarmonizationSettings, harmonization_score, harmonization_table
from ...metrics.measurement import BYTES, Measurement
from ..evaluation.harmony import UNCHANGED, harmonized, known_method
from ..harmonize import BUNDLED
from .rows import RowContext, RowResult, row

log = logging.getLogger(__name__)

WITHOUT_CONTROLLER, WITHOUT_MACA, PLAIN, FULL = VARIANTS
COUNTED = ("PSNR", "MSE", "fMSE")
DETAIL = "high-frequency PSNR in the mask"
ERROR = "fMSE, all"
SHOWN = 3


@dataclass(frozen=True)
class Scale:
    """pictures: of the training set, `size` pixels square; composites: that are measured, as large as the crops."""

    training: SmallSettings
    pictures: int
    composites: int
    size: int = 96


# about a quarter of an hour, and about twenty seconds, for a repetition on one core
WHOLE = Scale(SmallSettings(autoencoder=400, vae=200, unet=400, controller=150), 240, 30)
QUICK = Scale(SmallSettings(autoencoder=10, vae=5, unet=10, controller=5, batch=4), 16, 5)


@row(
    "r2r",
    title="R2R at small scale, trained from nothing, with and without its parts",
    paper="R2R, tables 3 and 4 (arXiv:2508.09746): controller, MACA and Clear-VAE each lower the error.",
)
def r2r(context: RowContext) -> RowResult:
    """All methods on the same composites; in every repetition other data, weights and composites."""
    scale = QUICK if context.quick else WHOLE
    values: dict[str, dict[str, list[Measurement]]] = {}
    panels: list[tuple[str, Tensor]] = []
    for seed in context.seeds:
        methods = trained_methods(scale, seed, context.inner_host())
        composites = held_out_composites(HELD_OUT, scale.composites, scale.training.side, seed)
        results = _results(methods, composites, context.host)
        for name, pictures in results.items():
            for measured in measure(pictures, composites):
                values.setdefault(name, {}).setdefault(measured.name, []).append(measured)
        panels = panels or _panels(results, composites)
    _drop_partial(values, len(context.seeds))
    better = {metric: "higher" if "PSNR" in metric else "lower" for metric in values[FULL]}
    return RowResult(values, {}, panels, _remarks(scale, values), len(values) + 1, better)


def trained_methods(scale: Scale, seed: int, host: Host) -> dict[str, Harmonizer | None]:
    """No change, the bundled harmoniser, and the four variants, trained for this."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_photograph_set(folder, scale.pictures, scale.size, seed)
        networks = train_small(folder, replace(scale.training, seed=seed), host, say=log.info)
    return {UNCHANGED: None, BUNDLED: known_method(BUNDLED), **variants(networks, host)}


def _results(
    methods: Mapping[str, Harmonizer | None], composites: Sequence[Composite], host: Host
) -> dict[str, list[Tensor]]:
    """Method -> `[1,3,H,W]` for every composite, pasted back."""
    progress, done = host.progress(len(methods) * len(composites), "harmonising"), 0
    results: dict[str, list[Tensor]] = {name: [] for name in methods}
    for name, method in methods.items():
        for one in composites:
            results[name].append(harmonized(method, one.composite, one.mask))
            done += 1
            progress.update(done)
    return results


def measure(results: Sequence[Tensor], composites: Sequence[Composite]) -> list[Measurement]:
    """PSNR, MSE and fMSE over all composites and by foreground ratio, and what is kept of fine detail in the mask."""
    own_size = HarmonizationSettings(size=None)
    pairs = list(zip(results, composites, strict=True))
    scores = [harmonization_score(result, one.truth[None], one.mask[0], own_size) for result, one in pairs]
    detail = [high_frequency_psnr(result, one.truth[None], one.mask[None]) for result, one in pairs]
    kept = Measurement(DETAIL, fmean(detail), "", BYTES, len(detail))
    lines = harmonization_table(scores)
    return [kept] + [
        Measurement(f"{one.name}, {line.ratio}", one.value, one.backbone, one.pixel_range, one.count)
        for line in lines
        for one in line.measurements
        if one.name in COUNTED
    ]


def _drop_partial(values: Mapping[str, dict[str, list[Measurement]]], repetitions: int) -> None:
    """Leave out ranges of foreground ratio that not every repetition has composites of."""
    for metrics in values.values():
        for name in [name for name, parts in metrics.items() if len(parts) < repetitions]:
            del metrics[name]


def _panels(results: Mapping[str, Sequence[Tensor]], composites: Sequence[Composite]) -> list[tuple[str, Tensor]]:
    panels = []
    for index, one in enumerate(composites[:SHOWN]):
        panels += [(name, pictures[index][0]) for name, pictures in results.items()]
        panels.append((f"truth: {one.photograph}, {one.shape}", one.truth))
    return panels


def _remarks(scale: Scale, values: Mapping[str, Mapping[str, Sequence[Measurement]]]) -> list[str]:
    steps = scale.training
    return [
        f"Networks of R2R's architecture with few channels, from random weights: {steps.autoencoder} steps of the "
        f"autoencoder, {steps.vae} of each decoder, {steps.unet} of the U-Net, {steps.controller} of each controller, "
        f"on {scale.pictures} composites of photographs (half Random Poisson Blending, half colour jitter); the "
        "published ones begin with Stable Diffusion's. What is compared is the parts, not the published networks.",
        f"Composites of {steps.side} px of three other photographs, their foregrounds jittered; deterministic Euler, "
        "10 steps.",
        *orders(values),
    ]


def orders(values: Mapping[str, Mapping[str, Sequence[Measurement]]]) -> list[str]:
    """Whether each part lowers the error, as in the paper, and whether the Clear-VAE keeps more of the detail."""
    steps = ((WITHOUT_CONTROLLER, WITHOUT_MACA), (WITHOUT_MACA, FULL), (PLAIN, FULL))
    said = [_compared(values, ERROR, worse, better, lower=True) for worse, better in steps]
    return [*said, _compared(values, DETAIL, PLAIN, FULL, lower=False)]


def _compared(
    values: Mapping[str, Mapping[str, Sequence[Measurement]]], metric: str, worse: str, better: str, *, lower: bool
) -> str:
    """One step of the order: in the mean, and in how many repetitions."""
    before, after = ([m.value for m in values[name][metric]] for name in (worse, better))
    held = [(a < b) if lower else (a > b) for b, a in zip(before, after, strict=True)]
    first, second = fmean(before), fmean(after)
    appears = math.isfinite(first) and math.isfinite(second) and ((second < first) if lower else (second > first))
    return (
        f"The paper's order, {better} before {worse} in {metric}, {'appears' if appears else 'does not appear'}: "
        f"{second:.1f} against {first:.1f}, in {sum(held)} of {len(held)} repetitions."
    )
