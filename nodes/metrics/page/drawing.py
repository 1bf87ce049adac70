"""Tables and labelled grids as pictures `[H,W,3]` uint8."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

from ...engine.errors import wrong_input
from ...engine.host.base import Host, counted

PAPER, INK, SOFT, LINE, BAND = (250, 249, 246), (25, 25, 30), (90, 90, 100), (205, 203, 196), (240, 238, 231)
GAP = 14
WIDEST_LINE = 1600  # pixels of a title or a cell: longer ones are cut, unless the pictures below are wider


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _width(text: str, font: Any) -> int:
    return int(np.ceil(font.getlength(text)))


def draw_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()
) -> np.ndarray:
    """A table with a title above and notes below; every cell is text, the first column left, others right aligned.

    What is wider than `WIDEST_LINE` ends in an ellipsis.
    """
    from PIL import Image, ImageDraw

    if any(len(row) != len(header) for row in rows):
        raise wrong_input("rows", [len(r) for r in rows], f"{len(header)} cells each", "Fill the missing cells.")
    font, large, line = _font(17), _font(21), 28
    header, *rows = ([_shortened(str(cell), font, WIDEST_LINE) for cell in row] for row in [header, *rows])
    title, notes = _shortened(title, large, WIDEST_LINE), [_shortened(note, font, WIDEST_LINE) for note in notes]
    widths = [max(_width(row[i], font) for row in [header, *rows]) + 2 * GAP for i in range(len(header))]
    text = max([_width(title, large), *(_width(note, font) for note in notes)])
    width = max(sum(widths), text) + 2 * GAP
    canvas = Image.new("RGB", (width, 64 + line * (len(rows) + 1 + len(notes)) + GAP), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 12), title, INK, large)
    for index, row in enumerate([header, *rows]):
        top = 50 + line * index
        if index % 2:
            draw.rectangle((GAP, top, GAP + sum(widths), top + line), BAND)
        _draw_row(draw, row, widths, top, font, SOFT if index == 0 else INK)
    draw.line((GAP, 50 + line, GAP + sum(widths), 50 + line), LINE)
    for index, note in enumerate(notes):
        draw.text((GAP, 58 + line * (len(rows) + 1 + index)), note, SOFT, font)
    return np.asarray(canvas)


def _draw_row(draw: Any, row: Sequence[str], widths: Sequence[int], top: int, font: Any, ink: Any) -> None:
    left = GAP
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        shift = GAP if index == 0 else width - GAP - _width(cell, font)
        draw.text((left + shift, top + 4), cell, ink, font)
        left += width


def draw_grid(
    panels: Sequence[tuple[str, Tensor]], columns: int, side: int = 320, title: str = "", host: Host | None = None
) -> np.ndarray:
    """Pictures side by side, each under its label: panels of (label, image `[3,H,W]` or `[H,W]` in 0..1).

    columns: how many in a row; side: the longer side of each in pixels. Small pictures are enlarged in blocks, so that
    their pixels stay what they are. Labels and title that find no room end in an ellipsis. host: counts the pictures,
    and may cancel at each.
    """
    from PIL import Image, ImageDraw

    if not panels or columns < 1 or side < 16:
        raise wrong_input("grid", f"{len(panels)} pictures, {columns} columns, {side} px", "at least 1, 1 and 16", "")
    columns = min(columns, len(panels))
    font, large, top = _font(16), _font(21), GAP + (34 if title else 0)
    pictures = [_fitted(image, side) for _, image in counted(panels, host, "pictures")]
    lines = -(-len(panels) // columns)
    cell, width = max(p.height for p in pictures) + 28 + GAP, columns * (side + GAP) + GAP
    title = _shortened(title, large, max(width, WIDEST_LINE) - 2 * GAP)
    canvas = Image.new("RGB", (max(width, _width(title, large) + 2 * GAP), top + lines * cell), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, 12), title, INK, large)
    for index, ((label, _), picture) in enumerate(zip(panels, pictures, strict=True)):
        left, upper = GAP + index % columns * (side + GAP), top + index // columns * cell
        draw.text((left, upper), _shortened(label, font, side), SOFT, font)
        canvas.paste(picture, (left, upper + 24))
    return np.asarray(canvas)


def _shortened(text: str, font: Any, width: int) -> str:
    """The text in one line, cut with an ellipsis where it is wider than so many pixels.

    However long it is, the time goes with the width: no more characters are looked at than it has pixels, and the
    place to cut is searched by halves.
    """
    line = " ".join(text[: width + 1].split())
    if len(text) <= width and _width(line, font) <= width:
        return line
    fitting = bisect_right(range(1, len(line) + 1), width, key=lambda n: _width(line[:n] + "…", font))
    return line[:fitting] + "…" if fitting else ""


def _fitted(image: Tensor, side: int) -> Image:
    from PIL import Image as Images

    array = (image.detach().float().cpu().clamp(0, 1) * 255).round().byte().numpy()
    picture = Images.fromarray(array if array.ndim == 2 else array.transpose(1, 2, 0)).convert("RGB")
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Images.Resampling.NEAREST if scale > 1 else Images.Resampling.LANCZOS)


def shown(value: float) -> str:
    """A number with four significant digits, no exponent for ordinary sizes."""
    return f"{value:.4g}" if value == 0 or 1e-4 <= abs(value) < 1e5 or not np.isfinite(value) else f"{value:.3e}"
