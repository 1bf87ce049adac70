"""Experts that act during a part of the denoising only.

Early, at much noise, a picture's layout is decided, late its texture: an expert that starts late keeps more of the
layout. Shares of the schedule are counted as ComfyUI counts them: 0 is pure noise, 1 the clean picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from ...engine.adapters.gates import Gates
from ..settings import NoiseRange


def gates_within(gates: Gates, ranges: Mapping[str, NoiseRange], covered: Callable[[NoiseRange], bool]) -> Gates:
    """The same gates without the experts whose range is not covered now; experts without a range always act."""
    acting = {name: gate for name, gate in gates.values.items() if name not in ranges or covered(ranges[name])}
    return replace(gates, values=acting)


def gates_at(gates: Gates, ranges: Mapping[str, NoiseRange], t: float) -> Gates:
    """`gates_within` at the noise predictor's t: give it to `predict(x, t, text, gate=...)`."""
    return gates_within(gates, ranges, lambda noise_range: noise_range.covers(t))
