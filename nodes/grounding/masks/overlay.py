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

from ...engine.errors import printable, shortened
from ...engine.region.inner_points import INSIDE
from ...engine.region.region import Box, Region, mask_box
from .refine import grow_mask, threshold_mask

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from ...engine.host.base import Progress

# Okabe and Ito's colours, which stay apart for colour-blind eyes.
COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
TINT = 0.4
LONGEST_LABEL = 80  # characters of a phrase or a style in a label
LEAST_SIDE = 512  # smaller pictures are enlarged by a whole number, or labels would cover them


def labelled_overlay(image: Tensor, regions: Sequence[Region], progress: Progress | None = None) -> Tensor:
    """A picture `[1,3,H,W]` in 0..1 with its regions drawn in, `[1,3,kH,kW]` on the CPU.

    k is 1, or for small pictures the whole number that brings the longer side to more than 256, at most 512.
    Things that were not found are listed in the lower left corner. progress: counts two steps per region, drawing and
    labelling, and may raise to cancel.
    """
    factor = max(1, LEAST_SIDE // max(image.shape[-2:]))
    canvas = F.interpolate(image.float().cpu(), scale_factor=float(factor), mode="nearest")[0]
    labels: list[tuple[Box, str, tuple[int, int, int]]] = []
    missing: dict[str, None] = {}  # in their order, each once
    for number, region in enumerate(regions, 1):
        if bool((region.mask > 0).any()):
            color = COLORS[len(labels) % len(COLORS)]
            _draw(canvas, region.mask.float().cpu(), factor, color)
            labels.append((_outline_box(region), _label(region), color))
        else:
            missing[f"not found: {_short(region.phrase)}"] = None
        if progress is not None:
            progress.update(number)
    return _written(canvas, labels, list(missing), factor, progress, len(regions))


def _outline_box(region: Region) -> Box:
    """Around what is outlined; a mask's faint places may reach much farther."""
    return mask_box(region.mask, INSIDE) if bool((region.mask > INSIDE).any()) else region.box


def _label(region: Region) -> str:
    style = f": {_short(region.style)}" if region.style else ""
    return f"{_short(region.phrase)}{style} ({region.score:.2f})"


def _short(words: str) -> str:
    return printable(shortened(words, LONGEST_LABEL))


def _draw(canvas: Tensor, mask: Tensor, factor: int, color: tuple[int, int, int]) -> None:
    """Draw a region into a canvas `[3,kH,kW]`, in the part of it that can change: around what the mask holds."""
    thick = max(1, max(canvas.shape[-2:]) // 400)
    x0, y0, x1, y1 = (side * factor for side in mask_box(mask))
    rows, columns = (slice(max(0, low - 2 * thick), high + 2 * thick) for low, high in ((y0, y1), (x0, x1)))
    large = F.interpolate(mask[None, None], scale_factor=float(factor), mode="nearest")[0, 0, rows, columns]
    canvas[:, rows, columns] = _drawn(canvas[:, rows, columns], large, thick, color)


def _drawn(canvas: Tensor, mask: Tensor, thick: int, color: tuple[int, int, int]) -> Tensor:
    """One region's tint and its outline of so many pixels: dark outside, bright inside."""
    tint = torch.tensor(color)[:, None, None] / 255
    canvas = torch.lerp(canvas, tint.expand_as(canvas), mask * TINT)
    hard = threshold_mask(mask, INSIDE)
    outside, inside = grow_mask(hard, thick) - hard, hard - grow_mask(hard, -thick)
    canvas = torch.where(outside > 0, torch.zeros_like(canvas), canvas)
    return torch.where(inside > 0, 0.5 + 0.5 * tint, canvas)


def _written(
    canvas: Tensor,
    labels: Sequence[tuple[Box, str, tuple[int, int, int]]],
    missing: Sequence[str],
    factor: int,
    progress: Progress | None,
    done: int,
) -> Tensor:
    """The canvas as a picture `[1,3,kH,kW]` with its labels; `done` steps of the progress are behind."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray((canvas.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, min(picture.size) // 32))
    taken: list[Box] = []
    for number, (box, text, color) in enumerate(labels, 1):
        taken.append(_place_label(draw, font, (box[0] * factor, box[1] * factor), text, color, taken, picture.size))
        if progress is not None:
            progress.update(done + number)
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
    y = _free_row((x, width, height), corner[1] - height, taken, max(1, size[1] - height + 1))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=(0, 0, 0), outline=(255, 255, 255))
    draw.rectangle((x + 1, y + 1, x + 3, y + height - 2), fill=color)
    draw.text((x + pad - left + 2, y + pad - top), text, (255, 255, 255), font)  # type: ignore[arg-type]
    return x, y, x + width, y + height


def _free_row(label: tuple[int, int, int], wanted: int, taken: Sequence[Box], rows: int) -> int:
    """The row nearest to the wanted one in which a label (left, width, height) meets no other; else the nearest."""
    x, width, height = label
    distance = np.abs(np.arange(rows) - wanted)
    free = np.ones(rows, dtype=bool)
    for left, top, right, bottom in taken:
        if left < x + width and x < right:
            free[max(0, top - height + 1) : max(0, bottom)] = False
    return int(np.where(free, distance, distance + 2 * (rows + abs(wanted))).argmin())
