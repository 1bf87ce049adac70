"""Restyling at the picture's own size: overlapping tiles over the regions, fused in every step (`engine/tiles`).

Several regions, each with its prompt and experts, are denoised together on one canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..engine.adapters.acting import joined_reasons, watching_experts
from ..engine.adapters.gates import Gates
from ..engine.errors import wrong_input
from ..engine.host.base import Progress
from ..engine.language.region_prompt import AREA
from ..engine.predictor.base import NoisePredictor, Prediction
from ..engine.predictor.sampling import partial_times
from ..engine.tiles.canvas import Canvas
from ..engine.tiles.denoise import TiledDenoiser, TiledRegion, denoise_tiles, inpainting_in_tiles, invert_tiles
from ..engine.tiles.grid import TileGrid, fused, overlap_without_lines, shrunk
from ..engine.tiles.noise import noise_at
from .region_task import RegionTask, Restyled, fitted, gate_region, united, without_overlaps
from .settings import RestyleSettings

PLAIN = f"a {AREA}"  # the prompt of a picture of anything
CONTEXT = 8  # the part of a tile's side that is worked on around a region, so that it ends in the picture
AFTER_NATIVE = 0.6  # of the strength, for tiles over what was redrawn at native size before


@torch.no_grad()
def restyle_in_tiles(
    predictor: NoisePredictor, image: Tensor, tasks: Sequence[RegionTask], settings: RestyleSettings
) -> Restyled:
    """Restyle regions of a picture `[1,3,H,W]` in 0..1 at its own size. Of overlapping regions the later is on top.

    The cost grows with the tiles that touch a region, not with the picture. Shows a preview each step and can be
    cancelled at every batch of tiles.
    """
    masks = without_overlaps([task.mask for task in tasks])
    tasks = [replace(task, mask=mask) for task, mask in zip(tasks, masks, strict=True) if bool((mask > 0).any())]
    mask = united([task.mask for task in tasks])
    work = TiledWork(predictor, image, mask, settings)
    with watching_experts() as watch:
        regions = [work.region(task) for task in tasks]
        pixels = work.redraw(regions)
        idle = joined_reasons(watch.idle_reasons(region.gates) for region in regions)
    result, blended = work.canvas.paste(image, pixels, mask, settings.feather)
    return Restyled(result, blended, idle, "full")


class TiledWork:
    """The canvas of some regions of a picture, its tiles and its latents."""

    def __init__(self, predictor: NoisePredictor, image: Tensor, mask: Tensor, settings: RestyleSettings) -> None:
        self.predictor, self.settings, self.factor = predictor, settings, predictor.factor
        side = max(1, round(predictor.native_size / self.factor))
        native, self.reach = side * self.factor, max(self.factor, settings.feather)
        context = max(native // CONTEXT, self.reach)
        self.canvas = Canvas.around(mask, native=native, factor=self.factor, context=context)
        self.grid = TileGrid.over(self.canvas.cells, side, self.factor, overlap_without_lines(side))
        self.picture = self.canvas.cut(image)
        self.corners = self.grid.touching(gate_region(self.canvas.cut(mask), self.reach)[0])

    def region(self, task: RegionTask) -> TiledRegion:
        """A region with its prompt encoded, its gates over the canvas and the tiles it needs."""
        predictor = self.predictor
        mask = gate_region(self.canvas.cut(task.mask), self.reach)
        gates = task.gate(mask, lambda other: self.canvas.cut(fitted(other, task.mask)))
        if gates is None and self.settings.weight != 1:
            remedy = "Give the region gates, or leave the weight at 1."
            raise wrong_input("weight", self.settings.weight, "1 where a region has no gates", remedy)
        gates = gates and gates.scaled(self.settings.weight)
        corners = self.grid.touching(mask[0])
        told = inpainting_in_tiles(predictor, self.grid, self.picture, mask[0], corners)
        negative = None if task.negative is None else predictor.encode_text([task.negative])
        text = predictor.encode_text([task.prompt])
        return TiledRegion(self.canvas.cut(task.mask), text, corners, negative, gates, told)

    def redraw(self, regions: Sequence[TiledRegion]) -> Tensor:
        """The canvas `[1,3,H,W]` redrawn from its partly noised latent; 0 where no tile lies."""
        predictor, settings = self.predictor, self.settings
        latent = fused(self.grid, self.picture, self.corners, predictor.encode, (self.factor, 1))
        times = partial_times(settings.strength, settings.steps)
        before = settings.steps if settings.inverted else 0
        progress = predictor.host.progress(before + settings.steps, "restyling")
        start = predictor.add_noise(latent, self.noise(latent, times, regions, progress), times[0])

        def on_step(index: int, prediction: Prediction) -> None:
            progress.update(before + index + 1, self.preview(prediction.denoised))

        denoiser = TiledDenoiser(predictor, self.grid, regions, settings.cfg)
        clean = denoise_tiles(denoiser, start, times, on_step)
        return fused(self.grid, clean, self.corners, predictor.decode, (1, self.factor))

    def noise(
        self, latent: Tensor, times: Sequence[float], regions: Sequence[TiledRegion], progress: Progress
    ) -> Tensor:
        """Noise to start from: drawn by place, and, as far as `inverted` says, what is the picture's own."""
        share = self.settings.inverted
        drawn = noise_at(self.canvas.cell_corner, self.canvas.cells, latent.shape[1], self.settings.seed).to(latent)
        if share == 0:
            return drawn
        plain = self.predictor.encode_text([PLAIN])
        unstyled = [replace(one, text=plain, negative=None, gates=one.gates and Gates()) for one in regions]
        denoiser = TiledDenoiser(self.predictor, self.grid, unstyled)
        own = invert_tiles(denoiser, latent, times, lambda index, _: progress.update(index + 1))
        return share * own + math.sqrt(1 - share**2) * drawn

    def preview(self, latent: Tensor) -> Tensor:
        """A small picture `[3,h,w]` of a canvas of latents: its longer side is the native size."""
        return self.predictor.decode(shrunk(self.grid, latent))[0]
