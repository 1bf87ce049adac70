"""Plots as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from .rows import Spread

PLOT, RIGHT, LINE, TOP, LETTER = 260, 30, 24, 34, 6.6  # pixels; LETTER: how wide a letter of a label is at most
COLOR, AXIS = "#3c6e47", "#a9a69c"


def nice_step(span: float, parts: int = 5) -> float:
    """1, 2 or 5 times a power of ten, so that about `parts` steps make the span."""
    raw = span / parts
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= raw * (1 - 1e-9))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    if high - low <= 0:
        low, high = low - 0.5, high + 0.5
    step = nice_step(high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def dot_plot(metric: str, spreads: Mapping[str, Spread]) -> str:
    """One line per method: the mean as a dot, mean +- deviation as a bar. Methods without a finite mean say so."""
    finite = {name: s for name, s in spreads.items() if math.isfinite(s.mean)}
    deviations = {name: s.deviation if math.isfinite(s.deviation) else 0.0 for name, s in finite.items()}
    low = min([0.0, *(s.mean - deviations[n] for n, s in finite.items())])
    high = max([0.0, *(s.mean + deviations[n] for n, s in finite.items())])
    marks = ticks(low, high)
    bottom, left = TOP + LINE * len(spreads), 24 + LETTER * max(map(len, spreads))
    width = left + PLOT + RIGHT

    def x(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * PLOT

    parts = [_text(8, 18, metric, "start")]
    parts += [_tick(x(mark), bottom, f"{mark:g}") for mark in marks]
    for index, (name, spread) in enumerate(spreads.items()):
        y = TOP + LINE * index + LINE / 2
        parts.append(_text(left - 12, y + 4, name, "end"))
        if name in finite:
            parts.append(_dot(x(spread.mean - deviations[name]), x(spread.mean), x(spread.mean + deviations[name]), y))
        else:
            parts.append(_text(left + 8, y + 4, str(spread.mean), "start"))
    label = escape(f"{metric} by method", quote=True)
    size = f'viewBox="0 0 {width:.0f} {bottom + 28}" width="{width:.0f}" height="{bottom + 28}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" {size}>{"".join(parts)}</svg>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _tick(x: float, bottom: float, text: str) -> str:
    line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="{AXIS}" stroke-width="0.6"/>'
    return line + _text(x, bottom + 18, text, "middle")


def _dot(low: float, middle: float, high: float, y: float) -> str:
    bar = f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{COLOR}" stroke-width="3" opacity="0.45"/>'
    return bar + f'<circle cx="{middle:.1f}" cy="{y}" r="5" fill="{COLOR}"/>'
