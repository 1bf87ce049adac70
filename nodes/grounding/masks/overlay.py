"""Regions drawn over their picture: tint, outline and label, readable on dark and on light pictures.

Every outline is a bright line beside a dark one, and every label white on black in a white frame, so one of the two
stands out whatever lies below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.region.inner_points import INSIDE
from ...engine.region.region import Box, Region, mask_box
from .refine import grow_mask, threshold_mask

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
TINT = 0.4
LEAST_SIDE = 512  # smaller pictures are enlarged by a whole number, or labels would cover them


def labelled_overlay(image: Tensor, regions: Sequence[Region]) -> Tensor:
    """A picture `[1,3,H,W]` in 0..1 with its regions drawn in, `[1,3,kH,kW]` on the CPU.

    k is 1, or for small pictures the whole number that brings the longer side to more than 256, at most 512.
    Things that were not found are listed in the lower left corner.
    """
    factor = max(1, LEAST_SIDE // max(image.shape[-2:]))
    canvas = F.interpolate(image.float().cpu(), scale_factor=float(factor), mode="nearest")[0]
    present = [region for region in regions if bool((region.mask > 0).any())]
    for index, region in enumerate(present):
        canvas = _drawn(canvas, region.mask.float().cpu(), factor, COLORS[index % len(COLORS)])
    labels = [
        (_outline_box(region), _label(region), COLORS[index % len(COLORS)]) for index, region in enumerate(present)
    ]
    missing = list(dict.fromkeys(f"not found: {region.phrase}" for region in regions if region not in present))
    return _written(canvas, labels, missing, factor)


def _outline_box(region: Region) -> Box:
    """Around what is outlined; a mask's faint places may reach much farther."""
    return mask_box(region.mask, INSIDE) if bool((region.mask > INSIDE).any()) else region.box


def _label(region: Region) -> str:
    style = f": {region.style}" if region.style else ""
    return f"{region.phrase}{style} ({region.score:.2f})"


def _drawn(canvas: Tensor, mask: Tensor, factor: int, color: tuple[int, int, int]) -> Tensor:
    """One region's tint and its outline: dark outside, bright inside."""
    mask = F.interpolate(mask[None, None], scale_factor=float(factor), mode="nearest")[0, 0]
    tint = torch.tensor(color)[:, None, None] / 255
    canvas = torch.lerp(canvas, tint.expand_as(canvas), mask * TINT)
    thick = max(1, max(mask.shape) // 400)
    hard = threshold_mask(mask, INSIDE)
    outside, inside = grow_mask(hard, thick) - hard, hard - grow_mask(hard, -thick)
    canvas = torch.where(outside > 0, torch.zeros_like(canvas), canvas)
    return torch.where(inside > 0, 0.5 + 0.5 * tint, canvas)


def _written(
    canvas: Tensor, labels: Sequence[tuple[Box, str, tuple[int, int, int]]], missing: Sequence[str], factor: int
) -> Tensor:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray((canvas.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, min(picture.size) // 32))
    taken: list[Box] = []
    for box, text, color in labels:
        taken.append(_place_label(draw, font, (box[0] * factor, box[1] * factor), text, color, taken, picture.size))
    for text in missing:
        corner = (0, picture.height)
        taken.append(_place_label(draw, font, corner, text, (255, 255, 255), taken, picture.size))
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


def _place_label(
    draw: ImageDraw,
    font: object,
    corner: tuple[int, int],
    text: str,
    color: tuple[int, int, int],
    taken: Sequence[Box],
    size: tuple[int, int],
) -> Box:
    """Write a label above a corner, inside the picture and clear of the others where there is room; its box."""
    left, top, right, bottom = (int(v) for v in draw.textbbox((0, 0), text, font=font))  # type: ignore[arg-type]
    pad = 4
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = max(0, min(corner[0], size[0] - width))
    rows = sorted(range(max(1, size[1] - height + 1)), key=lambda y: abs(y - (corner[1] - height)))
    free = (y for y in rows if not any(_meet((x, y, x + width, y + height), other) for other in taken))
    y = next(free, rows[0])
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=(0, 0, 0), outline=(255, 255, 255))
    draw.rectangle((x + 1, y + 1, x + 3, y + height - 2), fill=color)
    draw.text((x + pad - left + 2, y + pad - top), text, (255, 255, 255), font)  # type: ignore[arg-type]
    return x, y, x + width, y + height


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
