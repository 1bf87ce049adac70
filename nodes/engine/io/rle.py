"""Masks of the COCO annotation format: polygons, run lengths, and run lengths packed into text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import wrong_input


def mask_of_segmentation(segmentation: Any, height: int, width: int) -> np.ndarray:
    """`[H,W]` float32, 0 or 1. Polygons are filled by Pillow: a border pixel may differ from other programs'."""
    if isinstance(segmentation, list):
        return _polygons(segmentation, height, width)
    counts = segmentation["counts"]
    runs = unpack_counts(counts) if isinstance(counts, str) else counts
    return mask_of_runs(runs, height, width)


def _polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (width, height), 0)
    for points in polygons:
        if len(points) >= 6:
            ImageDraw.Draw(canvas).polygon([float(v) for v in points], fill=1)
    return np.asarray(canvas, dtype=np.float32)


def mask_of_runs(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Alternating lengths of 0 and 1, the first of 0, down the columns."""
    if sum(runs) != height * width or any(run < 0 for run in runs):
        raise wrong_input("run lengths", f"{sum(runs)} pixels", f"{height * width}", "The annotation file is damaged.")
    values = np.arange(len(runs)) % 2
    return np.repeat(values, runs).reshape(width, height).T.astype(np.float32)


def unpack_counts(text: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character from code 48 on, bit 6 says that more follow, the highest value
    bit of the last is the sign; from the fourth on each is the difference to the one two before."""
    runs: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        value -= (1 << shift) if code & 16 else 0
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
