"""The painters "generator" and "automatic": a distilled network paints a region in one pass, at full size.

The tiny world's model works at 128 pixels, so it paints a photograph in many tiles and steps. A generator that was
distilled from it does so in one pass, where one ships for the style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine.errors import wrong_input
from ..edit import EditResult, EditSettings, JointPainter, Painter
from .registry import PainterContext, painter, painter_named

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine.region.region import Region
    from ...sms.generator.files import StyleGenerator

FEATHER = 2  # pixels, the seam of the expert's regions
REDRAWING = ("strength", "steps", "cfg", "detail")  # the settings that only an expert can follow


@dataclass(frozen=True)
class GeneratorPainter:
    """generator: the trained network; host: where it runs."""

    generator: StyleGenerator
    host: Any

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for settings that a generator cannot follow."""
        check_settings(settings)

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """The region of a picture `[1,3,H,W]` painted at the picture's own size."""
        from ...sms.generator.apply import apply_generator

        feather = FEATHER if settings.feather is None else settings.feather
        painted, blended = apply_generator(self.generator, image, self.host, mask=region.mask[None], feather=feather)
        return EditResult(painted, blended, (region,))


@dataclass(frozen=True)
class PainterByRegion:
    """Another painter for every region. choose: from the picture's sides (height, width) and the region."""

    choose: Callable[[tuple[int, int], Region], Painter]

    def check(self, region: Region, settings: EditSettings) -> None:
        """What the region's painter refuses."""
        self._painter(region).check(region, settings)

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """As the region's painter."""
        return self._painter(region).paint(image, region, settings)

    def together(
        self, size: tuple[int, int], regions: Sequence[Region], settings: EditSettings
    ) -> list[Sequence[Region]]:
        """Neighbours of one painter that can paint them together, as it groups them; others one by one."""
        groups: list[Sequence[Region]] = []
        for chosen, group in groupby(regions, key=self._painter):
            alike = list(group)
            if isinstance(chosen, JointPainter):
                groups += chosen.together(size, alike, settings)
            else:
                groups += [[region] for region in alike]
        return groups

    def paint_together(self, image: Tensor, regions: Sequence[Region], settings: EditSettings) -> EditResult:
        """As the regions' painter, which `together` found to be the same."""
        chosen = self._painter(regions[0])
        assert isinstance(chosen, JointPainter)
        return chosen.paint_together(image, regions, settings)

    def _painter(self, region: Region) -> Painter:
        return self.choose((int(region.mask.shape[-2]), int(region.mask.shape[-1])), region)


def check_settings(settings: EditSettings) -> None:
    """RegionStyleError for settings that ask for redrawing, which a generator does not do."""
    given = [f"--{name}" for name in REDRAWING if name in settings.chosen()]
    if given:
        accepts = "--generator without them: it paints in one pass, always as far as it was trained to"
        raise wrong_input("--generator", f"it with {' and '.join(given)}", accepts, "Leave out one or the other.")


def find_generator(named: str) -> StyleGenerator:
    """A generator by the style of one that comes with the pack, or from its file."""
    from ...sms.generator.files import bundled_generators, load_generator

    return load_generator(bundled_generators().get(named.lower(), Path(named)))


def bundled_for(size: tuple[int, int], style: str, settings: EditSettings) -> Path | None:
    """The bundled generator's file that paints a style in a tiny-world picture of size `(H, W)`.

    None where there is none for the style, where the picture is as small as that world, and where strength, steps,
    cfg or detail ask for redrawing.
    """
    from ...sms.generator.files import bundled_generators
    from ...tinyworld.world import SIZE

    redrawn = any(name in settings.chosen() for name in REDRAWING)
    return None if redrawn or min(size) <= SIZE else bundled_generators().get(style)


@painter("generator")
def generator_painter(context: PainterContext) -> GeneratorPainter:
    """The generator of the context. RegionStyleError when it names none."""
    if context.generator is None:
        raise wrong_input("generator", "nothing", "a file, or the style of a bundled one", "Name one.")
    return GeneratorPainter(find_generator(context.generator), context.model.predictor.host)


@painter("automatic")
def automatic_painter(context: PainterContext) -> Painter:
    """A bundled generator where one fits the region (`bundled_for`), the model's expert elsewhere."""
    from ...sms.generator.files import load_generator

    expert = painter_named("expert", context)

    def choose(size: tuple[int, int], region: Region) -> Painter:
        path = bundled_for(size, region.style, context.settings) if context.model.tiny else None
        return expert if path is None else GeneratorPainter(load_generator(path), context.model.predictor.host)

    return PainterByRegion(choose)
