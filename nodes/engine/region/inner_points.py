"""Points inside a mask: where a person would click to say which thing is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

INSIDE = 0.5  # a soft mask's outline, where a question needs a yes or no


def _depth(mask: Tensor) -> Any:
    """The distance `[H,W]` in pixels of every pixel inside to the outline; the frame of the picture is one too."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(np.pad((mask > INSIDE).cpu().numpy(), 1))[1:-1, 1:-1]


def inner_point(mask: Tensor) -> tuple[float, float]:
    """The pixel (x, y) of a mask `[H,W]` that lies deepest inside it, in pixels; the frame is an outline too."""
    depth = _depth(mask)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x), float(y)


def inner_points(mask: Tensor, count: int) -> list[tuple[float, float]]:
    """Up to `count` pixels (x, y) spread over a mask `[H,W]`, in pixels, none nearer to its outline than 2 where it is
    that wide: the deepest first, then each time the one that lies farthest from those before, without going nearer
    to the outline than a third of that.
    """
    depth = _depth(mask)
    rows, columns = np.indices(depth.shape)
    apart = np.full(depth.shape, np.inf)
    points: list[tuple[float, float]] = []
    while len(points) < count:
        worth = np.minimum(3 * depth, apart) * (depth >= min(2.0, depth.max()))
        if worth.max() <= 0:
            break
        farthest = np.where(worth == worth.max(), apart, -1)  # of equals, or a long row is asked at its beginning only
        y, x = np.unravel_index(int(farthest.argmax()), depth.shape)
        points.append((float(x), float(y)))
        apart = np.minimum(apart, np.hypot(rows - y, columns - x))
    return points
