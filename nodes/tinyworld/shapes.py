"""Named shapes of the tiny world as signed distances, so that edges are soft and masks are exact."""

from __future__ import annotations

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "moon")


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angle = np.arctan2(u, -v)
    sector = np.abs((angle / (2 * np.pi) * 5 + 0.5) % 1 - 0.5) * 2  # 0 on a tip, 1 in a notch
    radius = np.hypot(u, v)
    tip, notch = 1.0, 0.45
    half = np.pi / 5
    phi = sector * half
    edge = tip * notch * np.sin(half) / (notch * np.sin(half - phi) + tip * np.sin(phi) + 1e-9)
    return (radius - edge) * 0.6


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = np.abs(u) * 1.05, -v + 0.12
    lobe = np.hypot(x - 0.45, y - 0.32) - 0.5
    point = np.maximum(x * 0.768 - (y + 1.0) * 0.6405, y)  # tangent to the lobes, met at y = 0
    core = np.maximum(x - 0.45, np.abs(y - 0.1) - 0.22)
    return np.minimum(np.minimum(lobe, point), core)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(u), np.abs(v)
    return np.minimum(np.maximum(a - 0.95, b - 0.32), np.maximum(a - 0.32, b - 0.95))


def _moon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(u, v) - 0.95, 0.78 - np.hypot(u - 0.48, v + 0.05))


def _triangle(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(v - 0.68, 0.87 * np.abs(u) - 0.5 * v - 0.5)


_DISTANCE = {
    "circle": lambda u, v: np.hypot(u, v) - 0.9,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) - 0.78,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.68) - 0.26,
    "moon": _moon,
}


def shape_distance(name: str, size: int, center: tuple[float, float], radius: float, angle: float) -> np.ndarray:
    """Signed distance of a shape in pixels, negative inside.

    name: one of `SHAPES`; size: side of the square picture; center: x, y and radius in pixels;
    angle: radians. Returns `[size, size]` float32.
    """
    axis = np.arange(size, dtype=np.float32)
    x = (axis[None, :] - center[0]) / radius
    y = (axis[:, None] - center[1]) / radius
    cos, sin = np.cos(angle), np.sin(angle)
    return (_DISTANCE[name](cos * x + sin * y, cos * y - sin * x) * radius).astype(np.float32)
