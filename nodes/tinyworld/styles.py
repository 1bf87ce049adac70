"""Styles of the tiny world: exact image filters, so that the true restyled picture is known.

Every filter takes and returns an image `[H, W, 3]`, float32 in 0..1, and is deterministic. Patterns (cells,
dots, tiles) are anchored at the top left pixel, so a filtered crop equals the crop of the filtered picture where
the crop starts on a multiple of 8 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def _gray(image: np.ndarray) -> np.ndarray:
    return image @ LUMA


def _blur(image: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    axes = (sigma, sigma, 0) if image.ndim == 3 else sigma
    return gaussian_filter(image, axes, mode="nearest", truncate=3.0)


def _saturate(image: np.ndarray, amount: float) -> np.ndarray:
    gray = _gray(image)[..., None]
    return np.clip(gray + (image - gray) * amount, 0, 1)


def _cells(image: np.ndarray, cell: int) -> np.ndarray:
    """Mean colour per cell, painted back over the cell; edge cells may be smaller."""
    height, width = image.shape[:2]
    pad = ((0, -height % cell), (0, -width % cell), (0, 0))
    full = np.pad(image, pad, mode="edge")
    mean = full.reshape(full.shape[0] // cell, cell, full.shape[1] // cell, cell, 3).mean((1, 3))
    return mean.repeat(cell, 0).repeat(cell, 1)[:height, :width]


def _grid(image: np.ndarray, period: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(image.shape[0], dtype=np.float32)[:, None] % period
    columns = np.arange(image.shape[1], dtype=np.float32)[None, :] % period
    return rows, columns


def pixel_art(image: np.ndarray) -> np.ndarray:
    """Cells of 4 px in a palette of four levels per channel, contrast raised as game palettes do."""
    cells = np.clip((_cells(image, 4) - 0.5) * 1.5 + 0.5, 0, 1)
    return np.round(_saturate(cells, 1.4) * 3) / 3


def pencil_sketch(image: np.ndarray) -> np.ndarray:
    """Colour dodge of the grey picture over its blurred negative: dark strokes on paper."""
    gray = _gray(image)
    dodge = np.clip(gray / (_blur(gray, 3.0) + 1e-3), 0, 1)
    stroke = np.clip(dodge**3 * 0.85 + 0.15 * gray, 0, 1)
    return stroke[..., None] * np.array([0.97, 0.96, 0.92], dtype=np.float32)


def halftone(image: np.ndarray) -> np.ndarray:
    """Dark ink dots of period 8 px on warm paper, dot area by darkness (amplitude modulated screen)."""
    rows, columns = _grid(image, 8)
    coverage = np.clip(1 - _gray(_blur(image, 2.0)), 0, 1)
    radius = 8 * np.sqrt(coverage / np.pi)  # a dot of this radius covers that share of its 8 x 8 cell
    ink = np.clip(radius - np.hypot(rows - 3.5, columns - 3.5) + 0.5, 0, 1)[..., None]
    paper, dye = np.array([0.98, 0.95, 0.86], np.float32), np.array([0.16, 0.10, 0.30], np.float32)
    return paper * (1 - ink) + dye * ink


def posterise(image: np.ndarray) -> np.ndarray:
    """Three levels per channel after smoothing, colours pushed apart: a screen print."""
    return np.round(_saturate(np.clip((_blur(image, 1.5) - 0.5) * 1.3 + 0.5, 0, 1), 1.8) * 2) / 2


def oil_paint(image: np.ndarray) -> np.ndarray:
    """Kuwahara filter (mean of the least varying of four 5x5 quadrants), deepened colours."""
    from scipy.ndimage import uniform_filter

    mean = uniform_filter(image, (5, 5, 0), mode="nearest")
    variance = uniform_filter(image**2, (5, 5, 0), mode="nearest").sum(-1) - (mean**2).sum(-1)
    shifts = [(a, b) for a in (-2, 2) for b in (-2, 2)]
    best = np.argmin([_shift(variance, s) for s in shifts], 0)
    picked = np.choose(best[..., None], [_shift(mean, s) for s in shifts])
    return np.clip(_saturate(picked, 1.9) * 0.8, 0, 1)


def _shift(array: np.ndarray, by: tuple[int, int]) -> np.ndarray:
    rows = np.clip(np.arange(array.shape[0]) + by[0], 0, array.shape[0] - 1)
    columns = np.clip(np.arange(array.shape[1]) + by[1], 0, array.shape[1] - 1)
    return array[rows[:, None], columns[None, :]]


def mosaic(image: np.ndarray) -> np.ndarray:
    """Tiles of 8 px with light from the top left and dark joints."""
    rows, columns = _grid(image, 8)
    joint = ((rows < 1) | (columns < 1)).astype(np.float32)[..., None]
    glaze = (0.12 - (rows + columns) * 0.02)[..., None]
    return np.clip(_saturate(_cells(image, 8), 1.3) + glaze, 0, 1) * (1 - joint) + 0.12 * joint


def neon(image: np.ndarray) -> np.ndarray:
    """Glowing contours in the picture's own saturated hues on a dark ground."""
    smooth = _blur(image, 1.0)
    gray = _gray(smooth)
    edge = np.clip(np.hypot(np.gradient(gray, axis=0), np.gradient(gray, axis=1)) * 9, 0, 1)
    glow = np.clip(edge + 0.7 * _blur(edge, 2.0), 0, 1)[..., None]
    hue = smooth / (smooth.max(-1, keepdims=True) + 1e-3)
    ground = np.array([0.05, 0.02, 0.12], dtype=np.float32)
    return np.clip(ground + glow * np.clip(_saturate(hue, 1.6) + 0.1, 0, 1), 0, 1)


def watercolor(image: np.ndarray) -> np.ndarray:
    """Pale washes that darken where colours meet."""
    wash = _blur(_blur(image, 2.0), 1.0)
    gray = _gray(wash)
    rim = np.clip(np.hypot(np.gradient(gray, axis=0), np.gradient(gray, axis=1)) * 5, 0, 0.5)[..., None]
    return np.clip(0.45 + 0.55 * _saturate(wash, 1.5) - rim, 0, 1)


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "pixel art": pixel_art,
    "pencil sketch": pencil_sketch,
    "halftone": halftone,
    "posterised": posterise,
    "oil paint": oil_paint,
    "mosaic": mosaic,
    "neon": neon,
    "watercolor": watercolor,
}
UNSTYLED = "plain"  # the word of the measuring networks for no style


def apply_style(image: np.ndarray, style: str) -> np.ndarray:
    """Filter a whole picture.

    image `[H, W, 3]` float32 in 0..1; style: a key of `STYLES`. Returns the same shape, clipped to 0..1.
    Raises KeyError naming the known styles.
    """
    if style not in STYLES:
        raise KeyError(f"unknown style {style!r}; known: {', '.join(STYLES)}")
    return np.clip(STYLES[style](image.astype(np.float32)), 0, 1).astype(np.float32)
