"""What the small harmoniser sees at low resolution: colours of both sides, and pairs of pixels across the border."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

_KNOWN = 1e-4  # of a weight: below it a place counts as unknown
_WINDOW = 3  # places of the grid over which pairs across the border are averaged
_FARTHEST = 64  # pixels between the two of a pair
_RELAXATIONS = 3  # per size of the membrane


@dataclass(frozen=True)
class Look:
    """All `[B,*,h,w]` at low resolution.

    foreground, background: colours of each side, carried on smoothly over the other side; mask: share of foreground;
    seam: 1 where the border runs, 0 elsewhere and where it has nothing to tell; inner, outer: mean colours of the
    pixels on its two sides; rough: variance of their differences.
    """

    foreground: Tensor
    background: Tensor
    mask: Tensor
    seam: Tensor
    inner: Tensor
    outer: Tensor
    rough: Tensor


def look(composite: Tensor, mask: Tensor, size: tuple[int, int]) -> Look:
    """A composite `[B,3,H,W]` with its mask `[B,1,H,W]`, 0..1, seen at `size`."""
    foreground, background, share = sides(composite, mask, size)
    told = F.avg_pool2d(border_pairs(composite, mask, size), _WINDOW, 1, _WINDOW // 2)
    count = told[:, 7:]
    mean = told[:, :7] / count.clamp_min(_KNOWN)
    inner, outer = mean[:, :3], mean[:, 3:6]
    rough = (mean[:, 6:] - (outer - inner).square().mean(1, keepdim=True)).clamp_min(0)
    seam = (count * _WINDOW * size[1] / mask.shape[-1]).clamp(0, 1)
    seam = torch.where(seam > 0.02, seam, 0)
    return Look(carried_on(foreground, share), carried_on(background, 1 - share), share, seam, inner, outer, rough)


def sides(composite: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Foreground, background `[B,3,h,w]` and mask `[B,1,h,w]` at `size`: means over a place's pixels of that side."""
    weighted = F.interpolate(torch.cat([composite * mask, composite, mask], 1), size, mode="area")
    share = weighted[:, 6:]
    background = (weighted[:, 3:6] - weighted[:, :3]).clamp_min(0) / (1 - share).clamp_min(_KNOWN)
    return weighted[:, :3] / share.clamp_min(_KNOWN), background.clamp_max(1), share


def border_pairs(composite: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Of all pairs of pixels across the border: sums of inner and outer colours, of squared differences (the mean of
    the colours), and their number, `[B,8,h,w]`, where the pair's middle lies.

    A pair's pixels are as far apart as the border is soft: the inner one is all foreground, the outer all background.
    """
    inside, outside = mask[:, 0] > 0.95, mask[:, 0] < 0.05
    middle = mask[:, 0] > 0.5
    enough = sum(int((middle.diff(dim=axis)).sum()) for axis in (-2, -1)) / 2
    reach, pairs = 1, _pairs(inside, outside, 1)
    while len(pairs[0]) < enough and reach < min(_FARTHEST, *mask.shape[-2:]):
        reach *= 2
        pairs = _pairs(inside, outside, reach)
    inner, outer = pairs
    (h, w), (height, width) = size, mask.shape[-2:]
    row, column = (inner[:, 1] + outer[:, 1]) // 2 * h // height, (inner[:, 2] + outer[:, 2]) // 2 * w // width
    colours = [composite[at[:, 0], :, at[:, 1], at[:, 2]] for at in pairs]
    square = (colours[1] - colours[0]).square().mean(1, keepdim=True)
    values = torch.cat([*colours, square, torch.ones_like(square)], 1)
    sums = values.new_zeros(len(mask) * h * w, 8).index_add_(0, (inner[:, 0] * h + row) * w + column, values)
    return sums.view(len(mask), h, w, 8).permute(0, 3, 1, 2)


def _pairs(inside: Tensor, outside: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Picture, row and column of the inner and of the outer pixel of every pair along a row or column, `[N,3]`."""
    inner: list[Tensor] = []
    outer: list[Tensor] = []
    for axis in (1, 2):
        length = inside.shape[axis] - reach
        if length < 1:
            continue
        step = torch.tensor([0, reach if axis == 1 else 0, reach if axis == 2 else 0], device=inside.device)
        first, second = (lambda x: x.narrow(axis, 0, length)), (lambda x: x.narrow(axis, reach, length))  # noqa: B023
        at = (first(inside) & second(outside)).nonzero()
        inner, outer = [*inner, at], [*outer, at + step]
        at = (first(outside) & second(inside)).nonzero()
        inner, outer = [*inner, at + step], [*outer, at]
    if not inner:
        return (torch.zeros(0, 3, dtype=torch.long, device=inside.device),) * 2
    return torch.cat(inner), torch.cat(outer)


def carried_on(values: Tensor, weight: Tensor, relaxations: int = 0) -> Tensor:
    """Values `[B,C,h,w]` where their weight `[B,1,h,w]` in 0..1 is high, smoothly carried on where it is low.

    Pull and push (Gortler et al., The Lumigraph, 1996): weighted means at half the size, of those again, and back.
    relaxations: steps towards the membrane that hangs between the known places, at every size. Zeros where nothing is
    known anywhere.
    """
    if values.shape[-1] <= 1 and values.shape[-2] <= 1:
        return torch.where(weight > _KNOWN, values, 0)
    known = F.avg_pool2d(torch.cat([values * weight, weight], 1), 2, ceil_mode=True, count_include_pad=False)
    total = known[:, -1:]
    mean = torch.where(total > _KNOWN, known[:, :-1] / total.clamp_min(_KNOWN), 0)
    coarse = carried_on(mean, (4 * total).clamp(0, 1), relaxations)  # a quarter that is known makes its parent known
    smooth = F.interpolate(coarse, values.shape[-2:], mode="bilinear")
    result = weight * values + (1 - weight) * smooth
    for _ in range(relaxations):
        result = weight * values + (1 - weight) * _neighbours(result)
    return result


def membrane(values: Tensor, weight: Tensor) -> Tensor:
    """The membrane that hangs between the values of the places with a weight."""
    return carried_on(values, weight, _RELAXATIONS)


def _neighbours(x: Tensor) -> Tensor:
    """Mean of the four neighbours, the border's own value beyond it."""
    padded = F.pad(x, [1] * 4, mode="replicate")
    total = padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:]
    return (total + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]) / 4
