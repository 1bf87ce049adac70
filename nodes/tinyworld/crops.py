"""Crops around objects, as the measuring networks see them."""

from __future__ import annotations

import numpy as np

from .world import SIZE


def crop_object(image: np.ndarray, box: tuple[int, int, int, int], margin: float) -> np.ndarray:
    """The square around a box, grown by `margin` of its side, resized to 128 px; `[H,W,3]` in 0..1."""
    from PIL import Image

    x0, y0, x1, y1 = box
    side = min(max(x1 - x0, y1 - y0, 8) * (1 + margin), image.shape[0], image.shape[1])
    left = min(max((x0 + x1 - side) / 2, 0), image.shape[1] - side)
    top = min(max((y0 + y1 - side) / 2, 0), image.shape[0] - side)
    picture = Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8))
    area = (left, top, left + side, top + side)
    resized = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=area)
    return np.asarray(resized, dtype=np.float32) / 255
