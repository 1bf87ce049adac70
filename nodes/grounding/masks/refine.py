"""Masks made better: hardened, grown, shrunk, filled, freed of specks, brought to the picture's edges, feathered.

Masks are `[...,H,W]` in 0..1 and stay soft where nothing else is said; every function returns a new tensor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError
from ...engine.region.inner_points import INSIDE
from ...engine.region.region import feather_mask
from ..settings import RefineSettings

FAINTEST = 0.02  # what the edge refinement leaves below this is none of the thing


def _mean(x: Tensor, radius: int) -> Tensor:
    """Mean over a square window, over the part of it inside the frame, columns then rows; `[B,C,H,W]`."""
    side = 2 * radius + 1
    columns = F.avg_pool2d(x, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(columns, (1, side), 1, (0, radius), count_include_pad=False)


def guided_filter(values: Tensor, guide: Tensor, radius: int, eps: float = 1e-3) -> Tensor:
    """The map that is closest to `values` and, in every window, linear in the guide's colours.

    values `[1,1,H,W]`, guide `[1,3,H,W]` in 0..1, radius of the windows in pixels, eps: how flat a window must be to
    be smoothed instead. Returns `[1,1,H,W]` in values' units. Source: He, Sun and Tang, Guided Image Filtering,
    TPAMI 2013, equations 5, 6 and 19 (colour guide).
    """
    slopes, offset = guided_coefficients(values, guide, radius, eps)
    return (slopes * guide.float()).sum(1, keepdim=True) + offset


def guided_coefficients(values: Tensor, guide: Tensor, radius: int, eps: float = 1e-3) -> tuple[Tensor, Tensor]:
    """The linear map of `guided_filter` at every place: slopes `[1,3,H,W]` of the guide's colours, offset `[1,1,H,W]`.

    Enlarged, they filter a larger guide (fast guided filter, He and Sun, arXiv:1505.00996).
    """
    guide, values = guide.float(), values.float()
    mean_i, mean_p = _mean(guide, radius), _mean(values, radius)
    products = (guide[:, :, None] * guide[:, None]).flatten(1, 2)
    covariance = _mean(products, radius).unflatten(1, (3, 3)) - mean_i[:, :, None] * mean_i[:, None]
    cross = _mean(guide * values, radius) - mean_i * mean_p
    matrix = covariance.permute(0, 3, 4, 1, 2) + eps * torch.eye(3, device=guide.device)
    a = torch.linalg.solve(matrix, cross.permute(0, 2, 3, 1)[..., None])[..., 0].permute(0, 3, 1, 2)
    b = mean_p - (a * mean_i).sum(1, keepdim=True)
    return _mean(a, radius), _mean(b, radius)


def edge_mask(mask: Tensor, image: Tensor, radius: int) -> Tensor:
    """A mask `[H,W]` whose outline follows the edges of its picture `[1,3,H,W]`, by `guided_filter`.

    Only places within 2 * radius of the mask can change; what stays below 2 percent is cleared to an exact 0.
    """
    # windows wider than the picture hold no more than the picture
    radius = min(radius, (min(mask.shape) - 1) // 2)
    if radius < 1:
        return mask.clone()
    result = guided_filter(mask[None, None], image.to(mask.device), radius)[0, 0].clamp(0, 1).to(mask)
    return torch.where(result < FAINTEST, torch.zeros_like(result), result)


def threshold_mask(mask: Tensor, threshold: float) -> Tensor:
    """1 where the mask is above the threshold, 0 elsewhere."""
    return (mask > threshold).to(mask.dtype)


def grow_mask(mask: Tensor, pixels: int) -> Tensor:
    """Grown by a disc of so many pixels: the largest value within that distance; negative: shrunk likewise.

    Soft values are kept as they are, only moved (grey-scale dilation and erosion). The frame of the picture is no
    outline: nothing shrinks away from it.
    """
    if pixels < 0:
        return -grow_mask(-mask, -pixels)
    height, width = mask.shape[-2:]
    flat = mask.reshape(-1, height, width)
    grown, rows = flat.clone(), _RowMaximum(flat, min(pixels, width))
    for down in range(min(pixels, height - 1) + 1):
        widest = rows(min(math.isqrt(pixels**2 - down**2), width))
        grown[:, down:] = torch.maximum(grown[:, down:], widest[:, : height - down])
        grown[:, : height - down] = torch.maximum(grown[:, : height - down], widest[:, down:])
    return grown.reshape(mask.shape)


class _RowMaximum:
    """The largest value within so many pixels along the rows of `[B,H,W]`, for distances up to `most`.

    Kept are the maxima over 1, 2, 4, ... places; any window is the larger one of two of these, so the time does not
    grow with the distance.
    """

    def __init__(self, values: Tensor, most: int) -> None:
        self._most, self._width = most, values.shape[-1]
        self._spans = [F.pad(values, (most, most), value=-math.inf)]
        while 2 ** len(self._spans) <= 2 * most + 1:
            last, step = self._spans[-1], 2 ** (len(self._spans) - 1)
            self._spans.append(torch.maximum(last[..., :-step], last[..., step:]))

    def __call__(self, distance: int) -> Tensor:
        level = (2 * distance + 1).bit_length() - 1
        first, last = self._most - distance, self._most + distance - 2**level + 1
        span = self._spans[level]
        return torch.maximum(span.narrow(-1, first, self._width), span.narrow(-1, last, self._width))


def _inside(mask: Tensor) -> np.ndarray:
    return (mask > INSIDE).cpu().numpy()


def fill_holes(mask: Tensor) -> Tensor:
    """Every place of a mask `[H,W]` that is walled in by values above 0.5 becomes 1."""
    from scipy.ndimage import binary_fill_holes

    inside = _inside(mask)
    holes = torch.from_numpy(binary_fill_holes(inside) & ~inside).to(mask.device)
    return torch.where(holes, torch.ones_like(mask), mask)


def mask_parts(mask: Tensor, smallest: float = 0.0) -> list[Tensor]:
    """The connected parts of a mask `[H,W]`, the largest first, each a mask of its own; together they are the mask.

    Parts are what is above 0.5 and touches by side or corner; soft places belong to the nearest part. smallest: parts
    with less than this share of the largest one's area are left out. A mask that is nowhere above 0.5 is one part if
    it is not empty.
    """
    from scipy.ndimage import distance_transform_edt, label

    labels, count = label(_inside(mask), structure=np.ones((3, 3)))
    if count < 2:
        return [mask.clone()] if bool((mask > 0).any()) else []
    rows, columns = distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    nearest = torch.from_numpy(labels[rows, columns]).to(mask.device)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = [number for number in np.argsort(-areas, kind="stable") if areas[number] >= smallest * areas.max()]
    return [torch.where(nearest == int(number) + 1, mask, torch.zeros_like(mask)) for number in order]


def largest_part(mask: Tensor) -> Tensor:
    """Only the largest connected part of a mask `[H,W]`."""
    parts = mask_parts(mask)
    return parts[0] if parts else mask.clone()


def refine_mask(mask: Tensor, settings: RefineSettings, image: Tensor | None = None) -> Tensor:
    """A mask `[H,W]` refined; image `[1,3,H,W]` in 0..1 is what its edges follow.

    RegionStyleError when edges are asked for without a picture.
    """
    if settings.threshold > 0:
        mask = threshold_mask(mask, settings.threshold)
    if settings.largest:
        mask = largest_part(mask)
    if settings.fill:
        mask = fill_holes(mask)
    mask = grow_mask(mask, settings.grow)
    if settings.edges > 0:
        if image is None:
            raise RegionStyleError(
                "image: got none with edges above 0, expected the picture whose edges the mask shall follow. "
                "Connect it, or set edges to 0."
            )
        mask = edge_mask(mask, image, settings.edges)
    return feather_mask(mask, settings.feather)
