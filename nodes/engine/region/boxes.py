"""Boxes around masks and masks of boxes. Boxes are `(x0, y0, x1, y1)` in pixels, x1 and y1 exclusive."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import wrong_input

Box = tuple[int, int, int, int]


def mask_box(mask: Tensor, threshold: float = 0.0) -> Box:
    """The smallest box around all values of a mask `[...,H,W]` above `threshold` (of any of the leading entries)."""
    if mask.ndim < 2 or mask.numel() == 0:
        raise wrong_input("mask", f"shape {list(mask.shape)}", "[H,W] or [B,H,W]", "Pass a mask of the picture's size.")
    inside = (mask > threshold).reshape(-1, *mask.shape[-2:]).any(0)
    rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
    if len(rows) == 0:
        raise wrong_input("mask", f"no value above {threshold}", "a region to change", "Draw a mask or use a box.")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_mask(box: Box, size: tuple[int, int]) -> Tensor:
    """A mask `[H,W]`, 1 inside the box."""
    x0, y0, x1, y1 = box
    mask = torch.zeros(size)
    mask[y0:y1, x0:x1] = 1
    return mask


def checked_box(box: tuple[float, ...], size: tuple[int, int]) -> Box:
    """The box rounded outwards to whole pixels and cut to the picture; RegionStyleError when nothing is left."""
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise wrong_input("box", tuple(box), "four numbers x0, y0, x1, y1", "Give the corners in pixels.")
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(size[1], math.ceil(box[2])), min(size[0], math.ceil(box[3]))
    if x0 >= x1 or y0 >= y1:
        accepts = f"x0 < x1 and y0 < y1 inside the picture of {size[1]} x {size[0]} pixels"
        raise wrong_input("box", tuple(box), accepts, "Give the corners in pixels, top left first.")
    return x0, y0, x1, y1
