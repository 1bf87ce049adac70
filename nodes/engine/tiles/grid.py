"""Where tiles lie on a canvas, and how much each counts at every place of it.

Tiles have one size and overlap; towards its sides a tile counts less and less, so that no border of a tile can be seen
(Bar-Tal et al., MultiDiffusion, arXiv:2302.08113, equation 5, whose weights are 1 in every tile).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Corner = tuple[int, int]
OVERLAP = 0.25  # share of a tile's side that it has in common with the next one
LEAST_OVERLAP = 8  # cells, at most half of a side: over fewer the change from tile to tile is seen as a line


def overlap_without_lines(side: int) -> float:
    """The share of a tile of `side` cells that neighbours need in common so that no change between them is seen."""
    return max(OVERLAP, min(0.5, LEAST_OVERLAP / side))


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `side` x `side` latent cells over `height` x `width` cells, by their corners (row, column).

    factor: pixels of a cell; overlap: the least share of a side that neighbours have in common.
    """

    height: int
    width: int
    side: int
    factor: int
    corners: tuple[Corner, ...]
    overlap: float = OVERLAP

    @classmethod
    def over(cls, size: tuple[int, int], side: int, factor: int, overlap: float = OVERLAP) -> TileGrid:
        """Tiles that cover a canvas of `size` (height, width) cells, at least `side` each, evenly spaced."""
        stride = max(1, side - math.ceil(side * overlap))
        rows, columns = (_starts(length, side, stride) for length in size)
        return cls(*size, side, factor, tuple((row, column) for row in rows for column in columns), overlap)

    def touching(self, mask: Tensor) -> tuple[Corner, ...]:
        """The corners of those tiles that hold a value above 0 of a mask of the canvas, `[H,W]` in pixels."""
        cells = torch.nn.functional.max_pool2d((mask[None, None] > 0).float(), self.factor)[0, 0] > 0
        side = self.side
        return tuple((r, c) for r, c in self.corners if bool(cells[r : r + side, c : c + side].any()))

    def weight(self, scale: int = 1) -> Tensor:
        """How much a tile counts, `[side * scale, side * scale]`, above 0: 1 inside, falling as a squared sine."""
        length = self.side * scale
        ramp = max(1, math.ceil(self.side * self.overlap)) * scale
        nearest = torch.minimum(torch.arange(length), torch.arange(length - 1, -1, -1)) + 0.5
        side = torch.sin((nearest / ramp).clamp(max=1) * math.pi / 2) ** 2
        return side[:, None] * side

    def cut(self, values: Tensor, corners: Sequence[Corner], scale: int = 1) -> Tensor:
        """The tiles of a canvas `[C,H,W]` with `scale` values per cell and side, `[T,C,side*scale,side*scale]`."""
        side = self.side * scale
        windows = [values[:, r * scale : r * scale + side, c * scale : c * scale + side] for r, c in corners]
        return torch.stack(windows)


class Fusion:
    """Tiles laid over each other into one canvas `[C,H,W]` of `scale` values per cell: the weighted mean.

    channels: C, or everything before H and W where it is more; dtype: of the sums, float32 or better.
    """

    def __init__(
        self, grid: TileGrid, channels: int | tuple[int, ...], scale: int, device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self._grid, self._scale = grid, scale
        leading = channels if isinstance(channels, tuple) else (channels,)
        self._sum = torch.zeros(*leading, grid.height * scale, grid.width * scale, device=device, dtype=dtype)
        self._weight = torch.zeros(grid.height * scale, grid.width * scale, device=device, dtype=dtype)
        self._of_tile = grid.weight(scale).to(self._weight)

    def add(self, corner: Corner, tile: Tensor, share: Tensor | None = None) -> None:
        """One tile `[C,n,n]`; share `[n,n]`: how much it counts at each place beside its usual weight."""
        rows, columns = (slice(at * self._scale, at * self._scale + tile.shape[-1]) for at in corner)
        weight = self._of_tile if share is None else self._of_tile * share.to(self._of_tile)
        self._sum[..., rows, columns] += tile.to(self._sum) * weight
        self._weight[rows, columns] += weight

    @property
    def weight(self) -> Tensor:
        """How much has been laid at each place so far, `[H,W]`; 0 where no tile lies."""
        return self._weight

    def result(self) -> Tensor:
        """The mean; 0 where no tile lies."""
        return self._sum / self._weight.clamp_min(torch.finfo(torch.float32).tiny)


def in_batches(grid: TileGrid, corners: Sequence[Corner], at_once: int) -> list[Sequence[Corner]]:
    """The corners, at most so many at a time."""
    return [corners[start : start + at_once] for start in range(0, len(corners), at_once)]


def tiles_at_once(native: int) -> int:
    """How many tiles of a side in pixels are worked on together: the pixels of eight pictures of 512, at most 16."""
    return max(1, min(16, 8 * 512**2 // native**2))


def fused(
    grid: TileGrid, values: Tensor, corners: Sequence[Corner], work: Callable[[Tensor], Tensor], scales: tuple[int, int]
) -> Tensor:
    """work over the tiles of a canvas `[1,C,H,W]`, fused: `[1,C',H',W']`; scales: values per cell before and after."""
    fusion: Fusion | None = None
    for batch in in_batches(grid, corners, tiles_at_once(grid.side * grid.factor)):
        done = work(grid.cut(values[0], batch, scales[0]))
        fusion = fusion or Fusion(grid, done.shape[1], scales[1], done.device)
        for corner, tile in zip(batch, done, strict=True):
            fusion.add(corner, tile)
    assert fusion is not None
    return fusion.result()[None]


def shrunk(grid: TileGrid, latents: Tensor) -> Tensor:
    """Latents `[B,C,h,w]` of a canvas for a preview: their longer side is a tile's, where it is longer."""
    scale = grid.side / max(latents.shape[-2:])
    size = [max(1, round(side * scale)) for side in latents.shape[-2:]]
    return F.interpolate(latents, size, mode="area") if scale < 1 else latents


def _starts(length: int, side: int, stride: int) -> list[int]:
    """Evenly spaced, the first at 0, the last ending at `length`."""
    count = max(1, math.ceil((length - side) / stride) + 1)
    return [0] if count == 1 else [round(index * (length - side) / (count - 1)) for index in range(count)]
