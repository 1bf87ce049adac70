"""Pictures about a run: how the result came about, and a loss over its iterations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from PIL import Image

PANEL = (480, 150)  # width and height in pixels


def strip(frames: Sequence[Tensor], height: int = 192) -> Tensor:
    """Frames `[3,h,w]` side by side, each `height` pixels high: `[3,height,W]` in 0..1."""
    sizes = [(height, max(1, round(frame.shape[-1] * height / frame.shape[-2]))) for frame in frames]
    scaled = [
        F.interpolate(frame[None], size, mode="bilinear", antialias=True)[0]
        for frame, size in zip(frames, sizes, strict=True)
    ]
    return torch.cat(scaled, -1).clamp(0, 1)


HELD_OUT = (205, 92, 20)  # colour of what was measured on pairs held out


def loss_panel(
    name: str,
    values: Sequence[float],
    colour: tuple[int, int, int],
    unit: str = "iterations",
    held_out: Sequence[tuple[int, float]] = (),
) -> Tensor:
    """One curve, smoothed, with its smallest and largest value: `[3,H,W]` in 0..1; unit: of what it runs over.

    held_out: (iterations done, loss) of a second one on the same axes, which is drawn as it is, with its points.
    """
    from PIL import Image, ImageDraw

    width, height = PANEL
    picture = Image.new("RGB", PANEL, "white")
    draw = ImageDraw.Draw(picture)
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    draw.text((8, 4), f"{name} loss   {low:.3g} .. {high:.3g}   {len(values)} {unit}", fill="black")
    box = (8, 26, width - 8, height - 8)
    draw.rectangle(box, outline=(210, 210, 210))
    smooth, second = _smoothed(values), [value for _, value in held_out]
    _line(draw, _points(list(enumerate(smooth, 1)), [*smooth, *second], len(values), box), colour)
    if held_out:
        said = f"held out   {second[0]:.3g} .. {second[-1]:.3g}"
        draw.text((width - 8 - draw.textlength(said), 4), said, fill=HELD_OUT)
        points = _points(held_out, [*smooth, *second], len(values), box)
        _line(draw, points, HELD_OUT)
        for x, y in points:
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=HELD_OUT)
    return drawn(picture)


def drawn(picture: Image.Image) -> Tensor:
    """What was drawn on an RGB picture, as `[3,H,W]` in 0..1."""
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.reshape(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def _smoothed(values: Sequence[float]) -> list[float]:
    """A moving average over a fiftieth of the run: single timesteps differ a lot."""
    radius = max(1, len(values) // 50)
    windows = [values[max(0, i - radius) : i + radius + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _line(draw: Any, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
    for a, b in pairwise(points):
        draw.line((*a, *b), fill=colour, width=2)


def _points(
    values: Sequence[tuple[int, float]], all_values: Sequence[float], length: int, box: tuple[int, int, int, int]
) -> list[tuple[float, float]]:
    """Points (x, y) of a curve of (iterations done, value) inside a box x0, y0, x1, y1, whose height is the range of
    `all_values` and whose width `length` iterations."""
    if not values:
        return []
    low, high = min(all_values), max(all_values)
    across, up = (box[2] - box[0]) / max(1, length - 1), (box[3] - box[1]) / ((high - low) or 1)
    return [(box[0] + max(0, done - 1) * across, box[3] - (value - low) * up) for done, value in values]
