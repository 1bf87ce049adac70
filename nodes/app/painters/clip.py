"""The painter "clip": a region is optimised towards the words for its style; no expert is needed (LEAST)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ...engine.errors import wrong_input
from ..edit import EditResult, EditSettings
from .registry import PainterContext, painter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from ...engine.region.region import Region
    from ...local_clip.networks import LocalClipNetworks
    from ...local_clip.settings import LocalClipSettings

REDRAWING = ("strength", "steps", "cfg", "detail")  # the settings that only an expert can follow


@dataclass(frozen=True)
class ClipPainter:
    """folder: a public CLIP's, None for the tiny one; settings: of the optimisation; predictor: whose autoencoder a
    latent is optimised with, and whose host it runs on; start_image `[1,3,H,W]`: what the regions are at first."""

    folder: Path | None
    settings: LocalClipSettings
    predictor: Any
    start_image: Tensor | None = None

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for settings that ask for redrawing, a style that CLIP cannot use, and missing files."""
        from ...local_clip.directions import style_direction

        check_settings(settings)
        style_direction(self._networks.clip, region.style, self.settings.preset)

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """The region of a picture `[1,3,H,W]` in its style."""
        return self.paint_together(image, [region], settings)

    def together(
        self, size: tuple[int, int], regions: Sequence[Region], settings: EditSettings
    ) -> list[Sequence[Region]]:
        """All of them: whether in one optimisation or in turn, `order` says, and a cancel keeps those that are done."""
        return [regions] if regions else []

    def paint_together(self, image: Tensor, regions: Sequence[Region], settings: EditSettings) -> EditResult:
        """The regions of a picture `[1,3,H,W]` in their styles."""
        from ...engine.region.regions import Regions
        from ...local_clip.stylize import LocalClip, stylize_local

        chosen = {name: getattr(settings, name) for name in ("seed", "margin", "feather", "largest_scale")}
        own = replace(self.settings, **{name: value for name, value in chosen.items() if value is not None})
        coder = PredictorCoder(self.predictor) if own.optimise == "latent" else None
        items = tuple(replace(region, image=0) for region in regions)
        there = Regions(items, int(image.shape[-2]), int(image.shape[-1]))
        by = LocalClip(self._networks, self.predictor.host, coder)
        made = stylize_local(image, there, by, own, self.start_image)
        phrases = ", ".join(region.phrase for region in regions)
        notes = (f"{phrases}: {made.warning}",) if made.warning else ()
        return EditResult(made.images, made.masks, tuple(regions), notes=notes, stopped=made.stopped)

    @cached_property
    def _networks(self) -> LocalClipNetworks:
        from ..local_clip import local_clip_networks

        return local_clip_networks(self.folder)


def check_settings(settings: EditSettings) -> None:
    """RegionStyleError for settings that ask for redrawing, which is an expert's."""
    chosen = settings.chosen()
    given = [f"--{name}" for name in REDRAWING if name in chosen]
    if given:
        accepts = "it without them: they belong to an expert"
        raise wrong_input("--method", f"clip with {' and '.join(given)}", accepts, "Leave them out.")


@dataclass(frozen=True)
class PredictorCoder:
    """The autoencoder of a loaded model, for optimising latents."""

    predictor: Any
    patcher: Any = None

    @property
    def factor(self) -> int:
        """Pixels per cell of the latent."""
        return int(self.predictor.factor)

    def on(self, patcher: Any) -> PredictorCoder:
        """Only ComfyUI has patchers."""
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images in 0..1."""
        latents: Tensor = self.predictor.encode(images)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Images in 0..1."""
        images: Tensor = self.predictor.decode(latents)
        return images


@painter("clip")
def clip_painter(context: PainterContext) -> ClipPainter:
    """The CLIP of the context, the tiny one where it names none; settings that suit it where there are none."""
    from ..local_clip import usual_settings

    settings = context.local_clip or usual_settings({}, context.clip)
    return ClipPainter(context.clip, settings, context.model.predictor, context.start_image)
