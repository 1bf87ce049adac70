"""Rows of the report: experiments registered by name, each repeated, with mean and spread of every number.

How a row is written and found: `report.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ...engine.errors import wrong_input
from ...engine.host.base import LocalHost
from ...metrics.measurement import Measurement

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine.host.base import Host
    from ...metrics.networks.networks import MetricNetworks

ROW_MODULES = "rows_"  # how the names of the modules beside this one begin that may register rows
REPETITIONS = 3  # at least


@dataclass(frozen=True)
class RowContext:
    """host; quick: fewer scenes, the same repetitions; seeds: one per repetition; networks and classifier: what
    measures (of the tiny world unless others are given); comfy: whether ComfyUI may be started for its baseline;
    train_minutes: for every variant that a row trains on the spot, 0: none is; folder: where their states are kept."""

    host: Host
    quick: bool
    seeds: tuple[int, ...]
    networks: MetricNetworks
    classifier: Any
    comfy: bool = True
    train_minutes: float = 0.0
    folder: Path = Path("regionstyle-report")

    def inner_host(self) -> Host:
        """The host for networks that a row uses: no bars of its own, so that the row's stays; cancelled with it."""

        def cancelled() -> bool:
            self.host.check()
            return False

        return LocalHost(self.host.device, cancelled=cancelled)


@dataclass(frozen=True)
class RowResult:
    """values: method -> metric -> one measurement per repetition; absent: method -> why it was not run;
    panels: labelled pictures `[3,H,W]` to look at; columns: how many of them in a line, 0: as many as fit; remarks:
    what to know when reading the numbers; better: metric -> "higher" or "lower" (the usual metrics are known)."""

    values: Mapping[str, Mapping[str, Sequence[Measurement]]]
    absent: Mapping[str, str] = field(default_factory=dict)
    panels: Sequence[tuple[str, Tensor]] = ()
    remarks: Sequence[str] = ()
    columns: int = 0
    better: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A registered experiment: name on the command line, title, the paper it stands for, the function."""

    name: str
    title: str
    paper: str
    run: Callable[[RowContext], RowResult]


ROWS: dict[str, Row] = {}


def row(
    name: str, *, title: str, paper: str
) -> Callable[[Callable[[RowContext], RowResult]], Callable[..., RowResult]]:
    """Register a row under a name, which must be new."""

    def register(function: Callable[[RowContext], RowResult]) -> Callable[[RowContext], RowResult]:
        if name in ROWS and ROWS[name].run.__module__ != function.__module__:
            raise ValueError(f"a row named {name!r} is already registered by {ROWS[name].run.__module__}")
        ROWS[name] = Row(name, title, paper, function)
        return function

    return register


def row_modules() -> list[str]:
    """The modules that may register rows, by name."""
    package = import_module(__package__)
    return sorted(module.name for module in iter_modules(package.__path__) if module.name.startswith(ROW_MODULES))


def all_rows() -> dict[str, Row]:
    """Every row: the modules by name, the rows of a module in the order they stand there."""
    for name in row_modules():
        import_module(f".{name}", __package__)
    return ROWS


def chosen_rows(names: Sequence[str]) -> list[Row]:
    """The rows of some names, or all. RegionStyleError listing the rows for a name that is none."""
    rows = all_rows()
    if unknown := [name for name in names if name not in rows]:
        raise wrong_input("--row", ", ".join(unknown), ", ".join(rows), "Choose one of these.")
    return [rows[name] for name in names] if names else list(rows.values())


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation over repetitions, with what every measurement names."""

    metric: str
    mean: float
    deviation: float
    repetitions: int
    backbone: str
    pixel_range: str
    count: int

    def as_json(self) -> dict[str, Any]:
        fields = dict(vars(self))
        return {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}


def spread_of(parts: Sequence[Measurement]) -> Spread:
    """The spread of one metric over repetitions. RegionStyleError for fewer than `REPETITIONS`."""
    if len(parts) < REPETITIONS:
        raise wrong_input("repetitions", len(parts), f"{REPETITIONS} or more", "Repeat the experiment.")
    values = [part.value for part in parts]
    finite = all(math.isfinite(value) for value in values)
    deviation = stdev(values) if finite else math.nan
    first = parts[0]
    pictures = sum(part.count for part in parts)
    return Spread(first.name, fmean(values), deviation, len(parts), first.backbone, first.pixel_range, pictures)


def spreads(result: RowResult) -> dict[str, dict[str, Spread]]:
    """Method -> metric -> spread."""
    return {m: {name: spread_of(parts) for name, parts in metrics.items()} for m, metrics in result.values.items()}
