"""The painter "expert": a region's latent is noised in part and denoised again with the expert of its style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...engine.adapters.gates import Gates, RegionGate
from ...engine.errors import wrong_input
from ...engine.region.region import Region
from ...router.restyle import GateOf, RestyleSettings, restyle_region
from ..edit import EditResult, EditSettings
from .registry import PainterContext, painter


@dataclass(frozen=True)
class ExpertPainter:
    """predictor: the model with its experts, over either host; usual: a style to the settings where nothing is chosen;
    gate_of: a region to its experts' gates (None: the expert that is called like the region's style)."""

    predictor: Any
    usual: Callable[[str], RestyleSettings]
    gate_of: Callable[[Region], GateOf] | None = None

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for a template without {style}, and for what the style's usual settings lack."""
        settings.prompt_of(region)
        self._settings(region, settings)

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """The region of a picture `[1,3,H,W]` redrawn; the expert acts inside the region only."""
        restyle = self._settings(region, settings)
        restyled = restyle_region(
            self.predictor,
            image,
            region.mask.to(image),
            settings.prompt_of(region),
            negative=settings.negative if restyle.cfg != 1 else None,
            gate=self._own_gate(region) if self.gate_of is None else self.gate_of(region),
            settings=restyle,
        )
        return EditResult(restyled.image, restyled.mask[None], (region,), restyled.idle)

    def _settings(self, region: Region, settings: EditSettings) -> RestyleSettings:
        return replace(self.usual(region.style), **settings.chosen())

    def _own_gate(self, region: Region) -> GateOf:
        return lambda inside, cut: style_gates(self.predictor, region.style, inside)


def style_gates(predictor: Any, style: str, inside: Tensor) -> Gates | None:
    """The expert of a style acts inside a mask; a single expert whatever its name; None for a model without experts.

    RegionStyleError when none of several experts is called like the style.
    """
    names = list(predictor.experts.names) if predictor.experts is not None else []
    chosen = names if len(names) < 2 else [name for name in names if name == style]
    if names and not chosen:
        raise wrong_input("style", repr(style), f"one of {', '.join(names)}", "Use one of these.")
    return Gates({name: RegionGate(inside) for name in chosen}) if chosen else None


@painter("expert")
def expert_painter(context: PainterContext) -> ExpertPainter:
    """The user's model with its experts."""
    return ExpertPainter(context.model.predictor, context.model.usual)
