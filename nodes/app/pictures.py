"""Pictures in and out, and the labelled sheet that shows a run at a glance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..engine.io.pictures import read_image, read_picture
from ..engine.io.safe_write import replacing
from .picture_files import picture_format

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "read_image",
    "read_mask",
    "read_picture",
    "save_image",
    "sheet",
    "side_in_row",
    "stacked",
    "to_bytes",
    "whole_steps",
]


PAPER = (250, 249, 246)
SHEET_SIDE = 320  # pixels of a picture on a sheet
GAP = 14  # between two of them


def read_mask(path: Path, size: tuple[int, int], say: Callable[[str], None] = lambda message: None) -> Tensor:
    """A mask file as `[H,W]` in 0..1, white = change; its size must be the picture's (height, width).

    say: is told when the shape is read from the transparency.
    """
    picture = read_picture(path, "mask", size)
    if picture.shaped_by_alpha:
        say(f"mask {path.name!r}: its shape is that of its opaque part")
    return picture.mask


def to_bytes(image: Tensor) -> np.ndarray:
    """`[1,3,H,W]` or `[H,W]` in 0..1 to uint8 `[H,W,3]` or `[H,W]`."""
    array = image.detach().float().cpu()
    array = array[0].permute(1, 2, 0) if array.ndim == 4 else array
    return (array.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def whole_steps(mask: Tensor) -> Tensor:
    """A mask rounded up to the 255 steps of a file, so that black there means exactly zero."""
    return (mask * 255).ceil() / 255


def save_image(image: Tensor, path: Path) -> None:
    """Write `[1,3,H,W]` or `[H,W]` in 0..1; the ending chooses the format. RegionStyleError for an unknown ending."""
    from PIL import Image

    kind = picture_format(path)
    with replacing(path) as part:
        Image.fromarray(to_bytes(image)).save(part, kind)


def stacked(sheets: Sequence[Image]) -> Image:
    """Sheets below each other, on the paper of the first."""
    from PIL import Image

    size = max(one.width for one in sheets), sum(one.height for one in sheets)
    canvas, top = Image.new("RGB", size, PAPER), 0
    for one in sheets:
        canvas.paste(one, (0, top))
        top += one.height
    return canvas


def sheet(panels: Mapping[str, Tensor], title: str, notes: Sequence[str] = (), side: int = SHEET_SIDE) -> Image:
    """Pictures side by side, each under its name, with a title above and notes below; side: of each, its longer one."""
    from PIL import Image, ImageDraw, ImageFont

    large, small = ImageFont.load_default(22), ImageFont.load_default(16)
    shown = [_shown(panel, side) for panel in panels.values()]
    tallest = max(picture.height for picture in shown)
    canvas = Image.new("RGB", ((side + GAP) * len(panels) + GAP, tallest + 100 + 22 * len(notes)), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 12), title, (25, 25, 30), large)
    for index, (name, picture) in enumerate(zip(panels, shown, strict=True)):
        left = GAP + index * (side + GAP)
        canvas.paste(picture, (left, 74))
        draw.text((left, 50), name, (70, 70, 80), small)
    for index, note in enumerate(notes):
        draw.text((GAP, tallest + 84 + 22 * index), note, (70, 70, 80), small)
    return canvas


def side_in_row(count: int, others: int, side: int = SHEET_SIDE) -> int:
    """The side of `count` panels that are together as wide as `others` of another side."""
    return (side + GAP) * others // count - GAP


def _shown(panel: Tensor, side: int) -> Image:
    """A panel as a picture whose longer side is `side`; enlarged, its pixels are squares."""
    from PIL import Image

    picture = Image.fromarray(to_bytes(panel)).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
