"""A bilateral grid of affine colour maps: fitted at low resolution, applied at any (Chen et al., Bilateral Guided
Upsampling, 2016).

A place of the grid stands for a part of the picture and a range of brightness. Between places the maps are
interpolated, so that the change is smooth over the picture and over brightness, and detail is carried along.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.jitter import luma

DEPTH = 5  # ranges of brightness
CELL = 8  # places of the low-resolution grid along a place's side
_HELD = 0.05  # how strongly a place is held at the map of the whole foreground, in places of the low-resolution grid
_RIDGE = 1e-4
_STRIP = 1 << 16  # pixels that are worked on at once: what they need stays in a processor's cache


def fit_grid(colours: Tensor, answer: Tensor, weight: Tensor) -> Tensor:
    """The grid `[B,12,DEPTH,gy,gx]` whose maps take colours `[B,3,h,w]` closest to the answer; weight `[B,1,h,w]`.

    Maps give the change: answer - colour = M (colour, 1); the 12 entries are M's rows.
    """
    features = torch.cat([colours, torch.ones_like(colours[:, :1])], 1)
    moments = _outer(features, torch.cat([features, answer - colours], 1)) * weight  # [B,28,h,w]
    whole = moments.sum((-2, -1))
    general = _solved(whole[:, :, None], _RIDGE * whole[:, 15, None].clamp_min(1))[:, :, 0]
    cells = _smoothed(_binned(moments, luma(colours)))
    b, _, depth, gy, gx = cells.shape
    mean = whole[:, :16] / whole[:, 15:16].clamp_min(1e-6)
    held = torch.cat([_HELD * mean, torch.zeros_like(whole[:, 16:])], 1)
    # The change that the general map already makes is taken out first: what is left is held at zero.
    flat = cells.flatten(2)
    left = flat[:, 16:] - (flat[:, :16].view(b, 4, 4, -1).permute(0, 3, 1, 2) @ general.view(b, 1, 3, 4).mT).permute(
        0, 2, 3, 1
    ).reshape(b, 12, -1)
    extra = _solved(torch.cat([flat[:, :16], left], 1) + held[:, :, None], _RIDGE)
    return (general[:, :, None] + extra).view(b, 12, depth, gy, gx)


def apply_grid(
    grid: Tensor, picture: Tensor, into: Tensor, window: tuple[slice, slice] | None = None,
    whole: tuple[int, int] | None = None,
) -> None:  # fmt: skip
    """Write picture + change `[B,3,h,w]` into `into`, strip after strip, so that memory stays bounded.

    window, whole: rows and columns of the picture in the picture `(H, W)` that the grid spans; default: all of it.
    """
    height, width = whole or (picture.shape[-2], picture.shape[-1])
    first, columns = (0, slice(0, width)) if window is None else (window[0].start, window[1])
    along = _hats(torch.arange(columns.start, columns.stop, device=picture.device), width, grid.shape[-1]).to(grid)
    rows = max(1, _STRIP // picture.shape[-1])
    for top in range(0, picture.shape[-2], rows):
        strip = picture[..., top : top + rows, :]
        at = torch.arange(first + top, first + top + strip.shape[-2], device=picture.device)
        down = _hats(at, height, grid.shape[-2]).to(grid)
        into[..., top : top + rows, :] = _changed(grid, strip.to(grid), down, along)


def _changed(grid: Tensor, strip: Tensor, down: Tensor, along: Tensor) -> Tensor:
    """A strip `[B,3,rows,width]` by the maps at its rows and columns, which are weights `[rows,gy]` and `[width,gx]`.

    Along rows and columns by two small matrix products, along brightness by weights of a hat function.
    """
    maps = torch.einsum("rg,bcdgx->bdcrx", down, grid)
    maps = maps @ along.T  # [B,depth,12,rows,width]
    place = luma(strip).clamp(0, 1) * (DEPTH - 1)
    total: Tensor | None = None
    for depth in range(DEPTH):
        part = maps[:, depth] * (1 - (place - depth).abs()).clamp_min(0)
        total = part if total is None else total.add_(part)
    assert total is not None
    m = total.unflatten(1, (3, 4))
    return strip + (m[:, :, :3] * strip[:, None]).sum(2) + m[:, :, 3]


def _hats(positions: Tensor, length: int, places: int) -> Tensor:
    """Weights `[N,places]` of linear interpolation between places whose centres lie evenly over a length of pixels."""
    at = ((positions + 0.5) * places / length - 0.5).clamp(0, places - 1)
    return (1 - (at[:, None] - torch.arange(places, device=positions.device)).abs()).clamp_min(0)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """All products: the 16 of a with a, row-major, then the 12 of a with the rest of b, `[B,28,h,w]`."""
    square = (a[:, :, None] * a[:, None]).flatten(1, 2)
    rest = (a[:, :, None] * b[:, None, 4:]).flatten(1, 2)
    return torch.cat([square, rest], 1)


def _binned(moments: Tensor, brightness: Tensor) -> Tensor:
    """Sums over the places of the grid `[B,28,DEPTH,gy,gx]`, shared between the two nearest ranges of brightness."""
    place = brightness.clamp(0, 1) * (DEPTH - 1)
    layers = [moments * (1 - (place - depth).abs()).clamp_min(0) for depth in range(DEPTH)]
    h, w = moments.shape[-2:]
    size = max(1, round(h / CELL)), max(1, round(w / CELL))
    area = h * w / (size[0] * size[1])
    return torch.stack([F.adaptive_avg_pool2d(layer, size) * area for layer in layers], 2)


def _smoothed(cells: Tensor) -> Tensor:
    """Each place with a part of its neighbours': 1 2 1 along rows, columns and brightness."""
    for axis in (-3, -2, -1):
        n = cells.shape[axis]
        if n > 1:
            before = torch.cat([cells.narrow(axis, 0, 1), cells.narrow(axis, 0, n - 1)], axis)
            after = torch.cat([cells.narrow(axis, 1, n - 1), cells.narrow(axis, n - 1, 1)], axis)
            cells = (2 * cells + before + after) / 4
    return cells


def _solved(moments: Tensor, ridge: Tensor | float) -> Tensor:
    """The maps `[B,12,N]` from moments `[B,28,N]`."""
    b, _, n = moments.shape
    gram = moments[:, :16].view(b, 4, 4, n).permute(0, 3, 1, 2)
    cross = moments[:, 16:].view(b, 4, 3, n).permute(0, 3, 1, 2)
    held = ridge if isinstance(ridge, float) else ridge[..., None, None]
    eye = held * torch.eye(4, dtype=moments.dtype, device=moments.device)
    return torch.linalg.solve(gram + eye, cross).mT.reshape(b, n, 12).permute(0, 2, 1)
