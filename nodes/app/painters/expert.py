"""The painter "expert": a region's latent is noised in part and denoised again with the expert of its style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torch import Tensor

from ...engine.adapters.gates import Gates, RegionGate
from ...engine.errors import wrong_input
from ...engine.region.region import Region
from ...router.restyle import GateOf, RegionTask, Restyled, detail_of, restyle_region, restyle_regions
from ...router.settings import RestyleSettings
from ..edit import EditResult, EditSettings
from .registry import PainterContext, painter


@dataclass(frozen=True)
class ExpertPainter:
    """predictor: the model with its experts, over either host; usual: a style to the settings where nothing is chosen;
    gate_of: a region to its experts' gates (None: the expert that is called like the region's style); tiled: as usual,
    for regions that are painted in tiles (None: the same)."""

    predictor: Any
    usual: Callable[[str], RestyleSettings]
    gate_of: Callable[[Region], GateOf] | None = None
    tiled: Callable[[str], RestyleSettings] | None = None

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for a template without {style}, and for what the style's usual settings lack."""
        settings.prompt_of(region)
        self._settings(region, settings)

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """The region of a picture `[1,3,H,W]` redrawn; the expert acts inside the region only."""
        restyle = self._for_region(region, settings)
        task = self._task(image, region, settings, restyle)
        restyled = restyle_region(
            self.predictor, image, task.mask, task.prompt, gate=task.gate, negative=task.negative, settings=restyle
        )
        return _result(restyled, [region])

    def together(
        self, size: tuple[int, int], regions: Sequence[Region], settings: EditSettings
    ) -> list[Sequence[Region]]:
        """Regions that follow one another and are painted in tiles with equal settings share one pass over them."""
        each = [(region, self._for_region(region, settings)) for region in regions]
        groups: list[Sequence[Region]] = []
        for restyle, group in groupby(each, key=lambda one: one[1]):
            alike = [region for region, _ in group]
            groups += [[region] for region in alike] if restyle.detail == "native" else [alike]
        return groups

    def paint_together(self, image: Tensor, regions: Sequence[Region], settings: EditSettings) -> EditResult:
        """Regions of one pass over the tiles of a picture `[1,3,H,W]`, each with its own prompt and expert."""
        restyle = self._for_region(regions[0], settings)
        tasks = [self._task(image, region, settings, restyle) for region in regions]
        return _result(restyle_regions(self.predictor, image, tasks, restyle), regions)

    def _task(self, image: Tensor, region: Region, settings: EditSettings, restyle: RestyleSettings) -> RegionTask:
        gate = self._own_gate(region) if self.gate_of is None else self.gate_of(region)
        negative = settings.negative if restyle.cfg != 1 else None
        return RegionTask(region.mask.to(image), settings.prompt_of(region), gate, negative)

    def _settings(self, region: Region, settings: EditSettings) -> RestyleSettings:
        return replace(self.usual(region.style), **settings.chosen())

    def _for_region(self, region: Region, settings: EditSettings) -> RestyleSettings:
        """The settings with the detail decided: "native", "full" or "both"."""
        restyle = self._settings(region, settings)
        detail = detail_of(self.predictor, region.mask, restyle)
        if detail != "native" and self.tiled is not None:
            restyle = replace(self.tiled(region.style), **settings.chosen())
            detail = restyle.detail if restyle.detail != "auto" else detail
        return replace(restyle, detail=detail)

    def _own_gate(self, region: Region) -> GateOf:
        return lambda inside, cut: style_gates(self.predictor, region.style, inside)


def _result(restyled: Restyled, regions: Sequence[Region]) -> EditResult:
    notes = tuple(f"{regions[0].phrase}: {restyled.note}" for _ in range(bool(restyled.note)))
    return EditResult(restyled.image, restyled.mask[None], tuple(regions), restyled.idle, notes)


def style_gates(predictor: Any, style: str, inside: Tensor) -> Gates | None:
    """The expert of a style acts inside a mask; a single expert whatever its name; None for a model without experts.

    RegionStyleError when none of several experts is called like the style.
    """
    chosen = style_experts(predictor, style)
    return Gates({name: RegionGate(inside) for name in chosen}) if chosen else None


def style_experts(predictor: Any, style: str) -> list[str]:
    """The name of a style's expert; of a single expert whatever its name; none for a model without experts.

    RegionStyleError when none of several experts is called like the style.
    """
    names = list(predictor.experts.names) if predictor.experts is not None else []
    chosen = names if len(names) < 2 else [name for name in names if name == style]
    if names and not chosen:
        raise wrong_input("style", repr(style), f"one of {', '.join(names)}", "Use one of these.")
    return chosen


@painter("expert")
def expert_painter(context: PainterContext) -> ExpertPainter:
    """The user's model with its experts."""
    model = context.model
    return ExpertPainter(model.predictor, model.usual, tiled=model.usual_in_tiles)
