"""Parts of a run on a GPU: each is a function in a file of its own in `parts/`, declared with `@part`.

    @part("copy-rate", order=35, seconds=20)
    def copy_rate(run: Run) -> None:
        run.figure("device to device", measured, "GB/s", wanted=">= 1000")

Nothing heavy is imported at the top of such a file: the list of parts is read by the process that only starts them.
"""

from __future__ import annotations

import importlib.util
import json
import operator
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PARTS = Path(__file__).with_name("parts")
COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


class LeftOut(Exception):
    """What a part needs is not on this machine; its words say what."""


def reached(value: float, wanted: str | None) -> bool | None:
    """Whether a figure is as wanted ("<= 1.15", ">= 5", "== 0"); None where nothing is wanted."""
    if wanted is None:
        return None
    relation, mark = wanted.split()
    return bool(COMPARE[relation](value, float(mark)))


def append(file: Path, entry: dict[str, Any]) -> None:
    """One more JSON line, on the disk when this returns: what was measured outlives the process."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")


@dataclass(frozen=True)
class Run:
    """What a part is given.

    device: "cuda" or "cpu"; dry: sizes at which a CPU is done in seconds; scratch: an own empty folder; out: where
    files that shall be kept go; ends: when the part's time is over, by `time.monotonic`.
    """

    name: str
    device: str
    dry: bool
    scratch: Path
    out: Path
    ends: float
    results: Path = field(repr=False)

    def figure(self, name: str, value: float, unit: str, wanted: str | None = None, *, of_gpu: bool = False) -> None:
        """A number measured. On a CPU marks are written down and not compared, since they are meant for a GPU.

        of_gpu: it says nothing on a CPU, where None is written.
        """
        on_gpu = self.device == "cuda"
        entry: dict[str, Any] = {"part": self.name, "figure": name, "unit": unit}
        entry["value"] = value if on_gpu or not of_gpu else None
        if wanted is not None:
            entry |= {"wanted": wanted, "reached": reached(value, wanted) if on_gpu else None}
        append(self.results, entry)

    def check(self, name: str, right: bool, said: str = "") -> None:
        """Something that must be so."""
        outcome = "passed" if right else "failed"
        append(self.results, {"part": self.name, "test": name, "outcome": outcome, "said": said})

    def left(self) -> float:
        """Seconds until this part is stopped."""
        return self.ends - time.monotonic()


@dataclass(frozen=True)
class Part:
    """order: smaller ones first; seconds, dry_seconds: limits on a GPU and in a dry run."""

    name: str
    order: int
    seconds: float
    dry_seconds: float
    action: Callable[[Run], None]

    def limit(self, dry: bool) -> float:
        return self.dry_seconds if dry else self.seconds


_DECLARED: dict[str, Part] = {}


def part(name: str, *, order: int, seconds: float, dry_seconds: float = 240) -> Callable[[Any], Any]:
    """Declares the function below as a part. ValueError for a name that is taken or that `--only` could not take."""

    def declare(action: Callable[[Run], None]) -> Callable[[Run], None]:
        if not re.fullmatch(r"[a-z0-9-]+", name):
            raise ValueError(f"part: got {name!r}, expected small letters, digits and hyphens, as --only takes them.")
        if name in _DECLARED:
            raise ValueError(f"part: {name!r} is declared twice. Give one of them another name.")
        _DECLARED[name] = Part(name, order, seconds, dry_seconds, action)
        return action

    return declare


def read_parts(folder: Path = PARTS) -> list[Part]:
    """All parts declared in the files of a folder, in their order."""
    _DECLARED.clear()
    sys.path[:0] = [str(folder)]
    for file in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"gpu_part_{file.stem}", file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sorted(_DECLARED.values(), key=lambda p: p.order)
