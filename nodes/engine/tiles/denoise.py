"""MultiDiffusion (Bar-Tal et al., arXiv:2302.08113): one latent canvas, denoised in tiles whose clean estimates are
fused in every step, with a prompt and experts for each region.

The paper fuses what the sampler makes of each tile (equation 5). Here the tiles' clean latents are fused and the noise
follows from them, which is the same for a deterministic sampler, since its step is linear in the clean latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapters.gates import Gate, Gates, RegionGate
from ..errors import wrong_input
from ..predictor.base import NoisePredictor, Text
from ..predictor.inpainting import Inpainting, latent_mask, masked_pictures
from ..predictor.sampling import guided, step
from ..predictor.schedule import Prediction, from_denoised, like
from .grid import Corner, Fusion, TileGrid, in_batches, tiles_at_once

LEAST_SHARE = 1e-3  # of a region's estimate at places outside of all regions, which are context


@dataclass(frozen=True, eq=False)
class TiledRegion:
    """One region of a canvas: mask `[H,W]` in pixels of the canvas, 0..1, where its estimate counts; text, negative:
    its prompt; gates: its experts, masks in pixels of the canvas; told: for a network for inpainting, a row for each
    corner; corners: its tiles."""

    mask: Tensor
    text: Text
    corners: tuple[Corner, ...]
    negative: Text | None = None
    gates: Gates | None = None
    told: Inpainting | None = field(default=None)


def gates_in_tiles(gates: Gates | None, grid: TileGrid, corners: Sequence[Corner]) -> Gates | None:
    """Gates whose masks cover a canvas, `[H,W]` or `[1,H,W]` in its pixels, for a batch of its tiles.

    What has no mask is the same for every tile. RegionStyleError for a mask for several pictures.
    """
    if gates is None:
        return None
    values = {name: _in_tiles(name, gate, grid, corners) for name, gate in gates.values.items()}
    return replace(gates, values=values)


def _in_tiles(name: str, gate: Gate, grid: TileGrid, corners: Sequence[Corner]) -> Gate:
    if isinstance(gate, Tensor) and gate.ndim >= 2:
        gate = RegionGate(gate)
    if not isinstance(gate, RegionGate):
        return gate
    mask = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
    size = (grid.height * grid.factor, grid.width * grid.factor)
    if len(mask) != 1:
        raise wrong_input(f"mask of {name!r}", f"{len(mask)} masks", "one", "A canvas is a part of one picture.")
    if mask.shape[-2:] != size:
        mask = F.interpolate(mask[None].float(), size, mode="bilinear", antialias=True)[0]
    return replace(gate, mask=grid.cut(mask, corners, grid.factor)[:, 0])


def inpainting_in_tiles(
    predictor: NoisePredictor, grid: TileGrid, picture: Tensor, mask: Tensor, corners: Sequence[Corner]
) -> Inpainting | None:
    """What a network for inpainting is told of each tile of a canvas `[1,3,H,W]` and a region `[H,W]`; else None."""
    if not predictor.inpaints:
        return None
    told, latents = [], []
    for batch in in_batches(grid, corners, tiles_at_once(predictor.native_size)):
        pictures = grid.cut(picture[0], batch, grid.factor)
        masks = grid.cut(mask[None], batch, grid.factor)[:, 0]
        latents.append(predictor.encode(masked_pictures(pictures, masks)))
        told.append(latent_mask(masks, (grid.side, grid.side)).to(latents[-1]))
    return Inpainting(torch.cat(told), torch.cat(latents))


class TiledDenoiser:
    """A network over a canvas of latents: `predict(x, t)` asks it tile by tile, for each region that a tile touches."""

    def __init__(
        self, predictor: NoisePredictor, grid: TileGrid, regions: Sequence[TiledRegion], cfg: float = 1.0
    ) -> None:
        self.predictor, self.grid, self.regions, self.cfg = predictor, grid, regions, cfg
        self._shares = [self._share(region.mask) for region in regions]

    @property
    def calls(self) -> int:
        """How many tiles one step asks the network for."""
        return sum(len(region.corners) for region in self.regions)

    def predict(self, x: Tensor, t: float) -> Prediction:
        """Noise and clean latent of a canvas x `[1,C,h,w]` at t; where no tile lies the clean latent is 0."""
        fusion = Fusion(self.grid, x.shape[1], 1, x.device)
        for region, share in zip(self.regions, self._shares, strict=True):
            for start, batch in self._batches(region):
                clean = self._tiles(x, t, region, batch, start)
                for corner, tile in zip(batch, clean, strict=True):
                    fusion.add(corner, tile, self.grid.cut(share, [corner])[0, 0])
        return from_denoised(x, fusion.result()[None].to(x), *self.predictor.alpha_sigma(t))

    def _batches(self, region: TiledRegion) -> list[tuple[int, Sequence[Corner]]]:
        at_once = tiles_at_once(self.predictor.native_size)
        batches = in_batches(self.grid, region.corners, at_once)
        return [(number * at_once, batch) for number, batch in enumerate(batches)]

    def _tiles(self, x: Tensor, t: float, region: TiledRegion, batch: Sequence[Corner], start: int) -> Tensor:
        """The clean latents of some tiles of one region, `[T,C,n,n]`."""
        gates = gates_in_tiles(region.gates, self.grid, batch)
        with self._told(region, slice(start, start + len(batch))):
            tiles = self.grid.cut(x[0], batch)
            return guided(self.predictor, tiles, t, region.text, region.negative, self.cfg, gates).denoised

    def _told(self, region: TiledRegion, rows: slice) -> AbstractContextManager[None]:
        if region.told is None:
            return nullcontext()
        return self.predictor.telling(Inpainting(region.told.mask[rows], region.told.latents[rows]))

    def _share(self, mask: Tensor) -> Tensor:
        """How much a region's estimate counts, per latent cell `[1,h,w]`; alone, the same everywhere."""
        if len(self.regions) == 1:
            return torch.ones(1, self.grid.height, self.grid.width)
        cells = F.avg_pool2d(mask.float().cpu()[None, None], self.grid.factor)[0]
        return cells.clamp_min(LEAST_SHARE)


def invert_tiles(
    denoiser: TiledDenoiser,
    clean: Tensor,
    times: Sequence[float],
    on_step: Callable[[int, Prediction], None] | None = None,
) -> Tensor:
    """The noise `[1,C,h,w]` from which a deterministic sampler would come to a clean canvas: DDIM inversion.

    Song et al., arXiv:2010.02502, section 4.3: the sampler's steps the other way round, from times[-1] to times[0].
    denoiser: with what the picture shows, no style.
    """
    x = clean
    for index, (now, following) in enumerate(pairwise(list(times)[::-1])):
        prediction = denoiser.predict(x, now)
        if on_step is not None:
            on_step(index, prediction)
        x = denoiser.predictor.add_noise(prediction.denoised, prediction.eps, following)
    alpha, sigma = (like(value, x) for value in denoiser.predictor.alpha_sigma(times[0]))
    return (x - alpha * clean) / sigma


def denoise_tiles(
    denoiser: TiledDenoiser,
    x: Tensor,
    times: Sequence[float],
    on_step: Callable[[int, Prediction], None] | None = None,
) -> Tensor:
    """DDIM without noise, as `sampling.ddim`, of a canvas x `[1,C,h,w]` at times[0] brought to times[-1]."""
    for index, (now, following) in enumerate(pairwise(times)):
        prediction = denoiser.predict(x, now)
        if on_step is not None:
            on_step(index, prediction)
        x = step(denoiser.predictor, prediction, following)
    return x
