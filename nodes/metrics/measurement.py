"""A measured number, which never travels without what it was measured with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..engine.errors import wrong_input

UNIT, SIGNED, BYTES = "0..1", "-1..1", "0..255"
RANGE_SCALE = {UNIT: 1.0, SIGNED: 2.0, BYTES: 255.0}


@dataclass(frozen=True)
class Measurement:
    """One number.

    name: the metric; value; backbone: the network, "" for none; pixel_range: of the pixels that were compared, "" where
    none were; count: how many pictures it is over. A stand-in's backbone and name end in "-tiny": such a number stands
    for itself and must not be set beside a published one.
    """

    name: str
    value: float
    backbone: str = ""
    pixel_range: str = ""
    count: int = 1

    def as_json(self) -> dict[str, Any]:
        """The fields; a value that JSON has no number for is the string "inf", "-inf" or "nan"."""
        return {**asdict(self), "value": self.value if math.isfinite(self.value) else str(self.value)}


def mean_of(parts: Sequence[Measurement]) -> Measurement:
    """The mean over single measurements of one metric, weighted by their counts; inf stays inf.

    RegionStyleError when there are none, or when they were not measured with the same means.
    """
    if not parts:
        raise wrong_input("measurements", "none", "one or more", "Measure at least one picture.")
    first = parts[0]
    for part in parts:
        if (part.name, part.backbone, part.pixel_range) != (first.name, first.backbone, first.pixel_range):
            raise wrong_input("measurements", f"{part.name} beside {first.name}", "one metric", "Average them apart.")
    count = sum(part.count for part in parts)
    value = sum(part.value * part.count for part in parts) / count
    return Measurement(first.name, value, first.backbone, first.pixel_range, count)


def check_tiny(name: str, backbone: str) -> str:
    """The metric's name with "-tiny" at its end where its backbone is a stand-in."""
    return f"{name}-tiny" if backbone.endswith("-tiny") and not name.endswith("-tiny") else name


def with_json(measurements: Mapping[str, Measurement]) -> dict[str, dict[str, Any]]:
    """Several measurements as JSON, by their keys."""
    return {key: measurement.as_json() for key, measurement in measurements.items()}
