"""Experts that act during a part of the denoising only.

Early, at much noise, a picture's layout is decided, late its texture: an expert that starts late keeps more of the
layout. Shares of the schedule are counted as ComfyUI counts them: 0 is pure noise, 1 the clean picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ...engine.adapters.gates import Gates
from ...engine.errors import wrong_input


@dataclass(frozen=True)
class NoiseRange:
    """From `start` to `end` of the schedule, both 0..1. RegionStyleError where end is not after start."""

    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            got = f"{self.start} to {self.end}"
            raise wrong_input("noise range", got, "0 <= start < end <= 1", "0 to 1 lets the experts act all the time.")

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == 1

    def covers(self, t: float) -> bool:
        """Whether experts act at the noise predictor's t, 1 (noise) to 0 (clean)."""
        return self.start <= 1 - t <= self.end


def gates_within(gates: Gates, ranges: Mapping[str, NoiseRange], covered: Callable[[NoiseRange], bool]) -> Gates:
    """The same gates without the experts whose range is not covered now; experts without a range always act."""
    acting = {name: gate for name, gate in gates.values.items() if name not in ranges or covered(ranges[name])}
    return replace(gates, values=acting)


def gates_at(gates: Gates, ranges: Mapping[str, NoiseRange], t: float) -> Gates:
    """`gates_within` at the noise predictor's t: give it to `predict(x, t, text, gate=...)`."""
    return gates_within(gates, ranges, lambda noise_range: noise_range.covers(t))
