"""The numbers of a benchmark, by the protocol of its kind of data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError, wrong_input
from ...metrics.datasets.samples import HARMONIZATION, REGIONAL, STYLE, pictures_in
from ...metrics.distributions import Embed, art_fid, frechet_distance, gather_features
from ...metrics.harmonization import (
    HarmonizationScore,
    HarmonizationSettings,
    compared_region,
    harmonization_score,
    harmonization_table,
)
from ...metrics.measurement import SIGNED, UNIT, Measurement, check_tiny, mean_of
from ...metrics.networks.networks import MetricNetworks
from ...metrics.regional_style import RegionalStyleSettings
from ...metrics.scoring import score_edit
from ...metrics.structure import FeatureMap, cfsd
from ...metrics.text_image import TextImageModel, preference_score
from ...metrics.vlm_questions import Ask, Edit, ask_questions
from ..edit import EditResult
from ..pictures import read_image
from .methods import Task

STYLE_SIDE = 512  # pixels, the shorter side whole pictures are compared at (that of the published ArtFID program)


@dataclass(frozen=True)
class Instruments:
    """What measures: networks for RSM, CLIP score and LPIPS; embed for FID; features for CFSD, with their names."""

    networks: MetricNetworks
    embed: Embed
    embed_name: str
    features: FeatureMap
    features_name: str


@dataclass(frozen=True)
class Preference:
    """A preference score: name, towers, and whether the temperature belongs to it (PickScore) or not (HPSv2)."""

    name: str
    towers: TextImageModel
    scaled: bool

    def measure(self, image: Tensor, prompt: str) -> Measurement:
        value = float(preference_score(self.towers, image, [prompt], scaled=self.scaled))
        return Measurement(check_tiny(self.name, self.towers.backbone), value, self.towers.backbone, UNIT)


@dataclass(frozen=True)
class Questions:
    """The vision-language model of Q1 to Q4; styles: the data set's. The opposite of a style is the one half the list
    further on, since the paper does not say how it is chosen."""

    ask: Ask
    backbone: str
    styles: Sequence[str]

    def opposite(self, style: str) -> str:
        place = self.styles.index(style) if style in self.styles else 0
        other = self.styles[(place + len(self.styles) // 2) % len(self.styles)]
        return other if other != style else self.styles[place - 1]

    def measure(self, image: Tensor, task: Task) -> list[Measurement]:
        """The four answers about one picture `[1,3,H,W]`, 1 for yes and 0 for no."""
        edit = Edit(image, task.phrase, task.style, self.opposite(task.style))
        return ask_questions(self.ask, [edit], self.backbone)


@dataclass
class Scores:
    """Collects pictures one by one and gives rows (name, measurements) at the end."""

    kind: str
    instruments: Instruments | None
    style_images: Path | None = None
    preferences: Sequence[Preference] = ()
    questions: Questions | None = None
    regional: RegionalStyleSettings = field(default_factory=RegionalStyleSettings)
    composite: HarmonizationSettings = field(default_factory=HarmonizationSettings)
    left_out: dict[str, str] = field(default_factory=dict)  # sample -> why it was not measured
    _edits: list[tuple[Measurement, ...]] = field(default_factory=list)
    _composites: list[HarmonizationScore] = field(default_factory=list)
    _vectors: list[Tensor] = field(default_factory=list)

    def add(self, task: Task, result: EditResult) -> None:
        """Measure one result. RegionStyleError naming the sample when it cannot be."""
        ways = {HARMONIZATION: self._add_composite, REGIONAL: self._add_regional, STYLE: self._add_style}
        try:
            ways[self.kind](task, result)
        except RegionStyleError as error:
            raise RegionStyleError(f"{task.sample.name}: {error}") from error

    def _add_composite(self, task: Task, result: EditResult) -> None:
        if task.sample.truth is None or task.mask is None:
            raise wrong_input("sample", "no truth or mask", "both", "Use the data set's own files.")
        truth = read_image(task.sample.truth)
        mask = task.mask
        if mask.shape != truth.shape[-2:]:
            mask = F.interpolate(mask[None, None], truth.shape[-2:], mode="nearest")[0, 0]
        self._composites.append(harmonization_score(result.image, truth, mask, self.composite, task.sample.subset))

    def _add_regional(self, task: Task, result: EditResult) -> None:
        if not result.regions:
            got = "none, and none was found by a model"
            raise wrong_input("mask", got, "a mask", "Put mask files beside the data, or use --model.")
        networks = self._tools().networks
        mask = result.regions[0].mask[None]
        score = score_edit(networks, result.image, task.image, mask, [task.style], self.regional)
        answers = self.questions.measure(result.image, task) if self.questions else []
        self._edits.append((*score.per_image[0], *answers))

    def _add_style(self, task: Task, result: EditResult) -> None:
        tools = self._tools()
        distance = tools.networks.distance
        image, source = _style_size(result.image), _style_size(task.image)
        lpips, structure = float(distance(image, source)), float(cfsd(tools.features, image, source))
        self._edits.append(
            (
                Measurement(check_tiny("LPIPS", distance.backbone), lpips, distance.backbone, SIGNED),
                Measurement(check_tiny("CFSD", tools.features_name), structure, tools.features_name, UNIT),
                *(preference.measure(result.image, task.words) for preference in self.preferences),
            )
        )
        self._vectors.append(tools.embed(image))

    def _tools(self) -> Instruments:
        if self.instruments is None:
            raise ValueError(f"a {self.kind} benchmark needs instruments")
        return self.instruments

    def unmeasurable(self, task: Task) -> str:
        """Why no number can be had of a sample, whatever the method makes of it; "" where one can."""
        if self.kind == STYLE or task.mask is None:
            return ""
        if self.kind == HARMONIZATION:
            inside = compared_region(task.mask, self.composite)
        else:
            inside = task.mask if self.regional.soft else (task.mask > 0.5).to(task.mask)
        if not bool((inside > 0).any()):
            return "its mask is empty"
        return "its mask leaves no background" if self.kind == REGIONAL and bool((inside == 1).all()) else ""

    def options(self) -> dict[str, Any]:
        """What the numbers were measured with, as JSON."""
        if self.kind == REGIONAL:
            return asdict(self.regional)
        return asdict(self.composite) if self.kind == HARMONIZATION else {"shorter_side": STYLE_SIDE}

    def rows(self) -> list[tuple[str, list[Measurement]]]:
        """The result: one row, or R2R's table by subset and foreground ratio."""
        if not self._edits and not self._composites:
            why = next(iter(self.left_out.values()), "no sample")
            raise wrong_input("--data", f"no sample that can be measured ({why})", "one or more", "Check the masks.")
        if self.kind == HARMONIZATION:
            table = harmonization_table(self._composites)
            return [(f"{r.subset}, foreground {r.ratio}", list(r.measurements)) for r in table]
        means = [mean_of(column) for column in zip(*self._edits, strict=True)]
        return [("all", means + (self._set_numbers(means[0]) if self.kind != REGIONAL and self.style_images else []))]

    def _set_numbers(self, lpips: Measurement) -> list[Measurement]:
        """FID of the results to the pictures of the style, and ArtFID."""
        tools = self._tools()
        styles = (_style_size(read_image(path)) for path in pictures_in(self.style_images or Path()))
        vectors = torch.cat(self._vectors).double().cpu().numpy()
        fid = frechet_distance(vectors, gather_features(tools.embed, styles))
        name, count = tools.embed_name, len(self._vectors)
        art = check_tiny("ArtFID", name)
        return [
            Measurement(check_tiny("FID", name), fid, name, UNIT, count),
            Measurement(art, art_fid(lpips.value, fid), f"{lpips.backbone}; {name}", UNIT, count),
        ]


def _style_size(image: Tensor) -> Tensor:
    """Shorter side `STYLE_SIDE`, where it is longer; small pictures stay."""
    scale = STYLE_SIDE / min(image.shape[-2:])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True)


def run_samples(
    tasks: Sequence[Callable[[], Task]],
    method: Callable[[Task], EditResult],
    scores: Scores,
    done: Callable[[Task, EditResult | None], None],
) -> None:
    """Read, make, measure one sample after the other, so that memory holds one; done(task, result) after each.

    A sample whose mask gives no number is left out and noted in `scores.left_out`: one of thousands must not end a run.
    """
    for read in tasks:
        task = read()
        if why := scores.unmeasurable(task):
            scores.left_out[task.sample.name] = why
            done(task, None)
            continue
        with torch.no_grad():
            result = method(task)
            scores.add(task, result)
        done(task, result)
