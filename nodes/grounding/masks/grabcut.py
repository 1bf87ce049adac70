"""The thing in a box, cut out by its colours: GrabCut (Rother, Kolmogorov and Blake, SIGGRAPH 2004), by OpenCV.

The graph cut runs on a small copy of the box and its surroundings, so that its time does not grow with the picture. Its
outline is brought to the full size by the fast guided filter (He and Sun, arXiv:1505.00996): the filter's coefficients
are found on the small copy and applied to the picture itself.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError
from ...engine.region.boxes import Box
from .refine import FAINTEST, fill_holes, guided_coefficients, mask_parts

LONGEST = 256  # pixels of the small copy's longer side
AROUND = 0.35  # of the box's longer side, on each of its sides: what the background looks like
ITERATIONS = 4
RADIUS = 4  # of the guided filter, in pixels of the small copy
HOLE = 0.05  # of the thing: smaller holes belong to it, such as the eyes of a face
SPECK = 0.1  # of the largest part: smaller ones do not
LEAST, MOST = 0.02, 0.98  # shares of the box between which something was cut out


def has_opencv() -> bool:
    """Whether one of OpenCV's packages is installed."""
    return find_spec("cv2") is not None


def grabcut_mask(image: Tensor, box: Box) -> Tensor | None:
    """A soft mask `[H,W]` of the thing in a box of a picture `[3,H,W]` in 0..1, 0 outside of the box.

    None where nothing, or all of the box, would be left: the colours inside and around it do not tell them apart.
    RegionStyleError where OpenCV is missing.
    """
    if not has_opencv():
        raise RegionStyleError(
            "outline: got 'grabcut', expected OpenCV for it, which is not installed. Run: pip install "
            "opencv-python-headless (or regionstyle[photo]), or choose box or sam."
        )
    height, width = int(image.shape[-2]), int(image.shape[-1])
    window = _around(box, height, width)
    if window == box:
        return None  # nothing is left outside to tell what the background looks like
    x0, y0, x1, y1 = window
    part = image[:, y0:y1, x0:x1].detach().float().cpu()
    small = _small(part)
    inside = _cut(small, _scaled(box, window, small))
    soft = _refined(part, small, inside)
    mask = torch.zeros(height, width)
    mask[y0:y1, x0:x1] = soft
    return _only_in(mask, box)


def _around(box: Box, height: int, width: int) -> Box:
    margin = max(8, round(AROUND * max(box[2] - box[0], box[3] - box[1])))
    return max(0, box[0] - margin), max(0, box[1] - margin), min(width, box[2] + margin), min(height, box[3] + margin)


def _small(part: Tensor) -> Tensor:
    """A copy of `[3,h,w]` whose longer side is `LONGEST` pixels at most."""
    scale = LONGEST / max(part.shape[-2:])
    if scale >= 1:
        return part
    size = [max(2, round(side * scale)) for side in part.shape[-2:]]
    return F.interpolate(part[None], size, mode="area")[0]


def _scaled(box: Box, window: Box, small: Tensor) -> Box:
    """The box in the small copy of a window."""
    across, down = small.shape[-1] / (window[2] - window[0]), small.shape[-2] / (window[3] - window[1])
    x0, y0 = round((box[0] - window[0]) * across), round((box[1] - window[1]) * down)
    x1, y1 = round((box[2] - window[0]) * across), round((box[3] - window[1]) * down)
    return x0, y0, max(x0 + 1, x1), max(y0 + 1, y1)


def _cut(small: Tensor, box: Box) -> Tensor:
    """What GrabCut takes for the thing, 0 or 1, `[h,w]`: outside of the box there is none of it."""
    import numpy as np

    cv2: Any = __import__("cv2")
    pixels = np.ascontiguousarray((small.permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8))
    labels = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
    labels[box[1] : box[3], box[0] : box[2]] = cv2.GC_PR_FGD
    if not (labels == cv2.GC_BGD).any() or not (labels == cv2.GC_PR_FGD).any():
        return torch.zeros(small.shape[-2:])
    cv2.setRNGSeed(0)  # its first guess at the colours is drawn at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(pixels, labels, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return _tidied(torch.from_numpy(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)))


def _tidied(inside: Tensor) -> Tensor:
    """A mask `[h,w]` of 0 and 1 without specks and small holes."""
    if not bool(inside.any()):
        return inside
    parts = mask_parts(inside, SPECK)
    thing = torch.stack(parts).amax(0)
    holes = mask_parts(fill_holes(thing) - thing)
    small = [hole for hole in holes if float(hole.sum()) <= HOLE * float(thing.sum())]
    return torch.stack([thing, *small]).amax(0)


def _refined(part: Tensor, small: Tensor, inside: Tensor) -> Tensor:
    """A hard mask of the small copy as a soft one of the part itself, `[h,w]`, its outline on the part's edges."""
    radius = min(RADIUS, (min(inside.shape) - 1) // 2)
    if radius < 1:
        return F.interpolate(inside[None, None], part.shape[-2:], mode="nearest")[0, 0]
    slopes, offset = guided_coefficients(inside[None, None], small[None], radius)
    result = _enlarged(offset, part)
    for channel in range(3):  # one at a time: the picture may be large
        result += _enlarged(slopes[:, channel : channel + 1], part) * part[channel]
    result = result.clamp(0, 1)
    return torch.where(result < FAINTEST, torch.zeros_like(result), result)


def _enlarged(values: Tensor, part: Tensor) -> Tensor:
    return F.interpolate(values, part.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


def _only_in(mask: Tensor, box: Box) -> Tensor | None:
    """The mask inside the box; None where it is next to nothing, or next to all."""
    x0, y0, x1, y1 = box
    result = torch.zeros_like(mask)
    result[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    share = float((result[y0:y1, x0:x1] > 0.5).float().mean())
    return result if LEAST <= share <= MOST else None
