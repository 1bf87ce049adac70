"""`regionstyle report`: the papers' findings at small scale on the tiny world, in one self-contained page.

Adding a row: write a module `report_NAME.py` beside this one; it is found by its name, and no other file changes.

    from .report_rows import RowContext, RowResult, row

    @row("routed", title="Two styles on two things", paper="RegionRoute, section 4: what the paper claims there.")
    def routed(context: RowContext) -> RowResult:
        scenes = 3 if context.quick else 20  # --quick: fewer scenes, never fewer repetitions
        values = {method: {} for method in ("the usual way", "ours")}
        for number, seed in enumerate(context.seeds):  # one repetition: its own scenes, its own noise
            ...  # append one Measurement to values[method][metric]: the mean over this repetition's scenes
        return RowResult(values, absent={"method": "why it was not run"}, panels=[("label", image)], columns=2,
                         remarks=["what to know when reading the numbers"], better={"leak": "lower"})

`values` holds per method and metric one `Measurement` for each of `context.seeds`; the frame makes mean and sample
standard deviation of them, the table, a plot per metric, report.html and report.json. A Measurement names its backbone
and pixel range; `check_tiny` puts "-tiny" to the name of a number whose backbone is a stand-in. `panels` are pictures
`[3,H,W]` in 0..1, `columns` of them in a line: a line per task and a column per method can be compared by eye; three
tasks are enough. `better` says which way a metric of your own is good; the usual ones are known (`scoring.BETTER`).

A row takes all randomness from `context.seeds`, so that the same seeds give the same numbers; shows how far it is by
`context.host.progress(total, "label")`, whose every step raises on cancel; and gives the networks it loads
`context.inner_host()`. Where it needs an installed ComfyUI it asks `context.comfy`, and names what it could not run in
`absent`. All rows together should take a quarter of an hour on two CPU cores, with `--quick` a minute or two.
`report_baselines.py` is a whole example; its `Task`, `tasks_of` and `measure` may be used by others.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...metrics.page import report_page as html
from ...metrics.page.drawing import shown
from ...metrics.scoring import BETTER
from .plots import dot_plot
from .rows import REPETITIONS, Row, RowContext, RowResult, Spread, chosen_rows, spreads

DIGITS = 6  # behind the point, in a table; smaller numbers get an exponent
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}  # which way is better
TITLE = "RegionStyle: small-scale reproduction on the tiny world"
TINY_NOTE = (
    "Numbers of a toy world whose truth is exact. Metrics that end in -tiny are measured by this pack's own small "
    "networks and must not be set beside published figures."
)


@dataclass(frozen=True)
class Measured:
    """A row with what came out, and how long it took in seconds."""

    row: Row
    result: RowResult
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.row.name,
            "title": self.row.title,
            "paper": self.row.paper,
            "seconds": round(self.seconds, 1),
            "methods": {m: {k: s.as_json() for k, s in v.items()} for m, v in spreads(self.result).items()},
            "absent": dict(self.result.absent),
            "remarks": list(self.result.remarks),
        }


def run_rows(
    rows: Sequence[Row], context: RowContext, after: Callable[[list[Measured]], None] = lambda done: None
) -> list[Measured]:
    """Run every row; after(all so far) follows each. Cancelling stops at the next check of the host."""
    done: list[Measured] = []
    for each in rows:
        context.host.check()
        began = time.monotonic()
        result = each.run(context)
        done.append(Measured(each, result, time.monotonic() - began))
        after(done)
    return done


def write_report(measured: Sequence[Measured], folder: Path, about: dict[str, Any]) -> tuple[Path, Path]:
    """report.html and report.json in a folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data = folder / "report.html", folder / "report.json"
    contents = {"about": about, "rows": [each.as_json() for each in measured]}
    data.write_text(json.dumps(contents, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    facts = html.table(["what", "value"], list(about.items()))
    sections = [html.note(TINY_NOTE), *[_section(each) for each in measured], html.section("How it was made", facts)]
    page.write_text(html.page(TITLE, sections), encoding="utf-8")
    return page, data


def _section(each: Measured) -> str:
    measured = spreads(each.result)
    metrics = list(dict.fromkeys(name for values in measured.values() for name in values))
    header = ["method", *(_header(name, each.result) for name in metrics)]
    rows = [[method, *(_cell(values.get(name)) for name in metrics)] for method, values in measured.items()]
    plots = [dot_plot(name, {m: v[name] for m, v in measured.items() if name in v}) for name in metrics]
    missing = [html.note(f"Not run: {method} ({why})") for method, why in each.result.absent.items()]
    used = "; ".join(dict.fromkeys(_measured_with(s) for values in measured.values() for s in values.values()))
    notes = [html.note(remark) for remark in [each.row.paper, *each.result.remarks, f"Measured with: {used}."]]
    pictures = [html.grid(each.result.panels, each.result.columns)] if each.result.panels else []
    return html.section(each.row.title, *notes, html.table(header, rows), *missing, *pictures, html.plots(plots))


def _header(name: str, result: RowResult) -> str:
    """The metric, and an arrow to where it is better."""
    better = {**BETTER, **result.better}.get(name, BETTER.get(name.removesuffix("-tiny"), ""))
    return f"{name}{ARROWS[better]}"


def _measured_with(spread: Spread) -> str:
    """The metric, its network and the range of the pixels that were compared."""
    parts = [spread.backbone, f"pixels {spread.pixel_range}" if spread.pixel_range else ""]
    return f"{spread.metric} ({', '.join(part for part in parts if part) or 'no network, no pixels'})"


def _cell(spread: Spread | None) -> str:
    """mean ± deviation, both to the deviation's second digit: what lies below it says nothing."""
    if spread is None:
        return ""
    mean, deviation = spread.mean, spread.deviation
    if not (math.isfinite(mean) and math.isfinite(deviation) and deviation > 0):
        return f"{shown(mean)} ± {shown(deviation)}"
    digits = max(0, 1 - math.floor(math.log10(deviation)))
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if digits <= DIGITS else f"{mean:.2e} ± {deviation:.1e}"


def about_run(context: RowContext, began: float) -> dict[str, Any]:
    """What somebody needs to repeat it."""
    import torch

    networks = context.networks
    return {
        "repetitions": len(context.seeds),
        "seeds": ", ".join(map(str, context.seeds)),
        "quick": "yes" if context.quick else "no",
        "device": str(context.host.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "text and image": networks.text_image.backbone,
        "perceptual": networks.distance.backbone,
        "seconds": round(time.monotonic() - began, 1),
    }


TRAINS = "editing"  # the row that trains on the spot


@dataclass(frozen=True)
class ReportRequest:
    """folder: where report.html and report.json go; rows: their names (none: all); quick: fewer scenes; repetitions:
    `REPETITIONS` or more; comfy: whether ComfyUI may be started; train_minutes: for every variant that a row trains."""

    folder: Path
    rows: Sequence[str] = ()
    quick: bool = False
    repetitions: int = REPETITIONS
    comfy: bool = True
    train_minutes: float = 0.0


def make_report(request: ReportRequest, host: Host, say: Callable[[str], None]) -> None:
    """Run the rows and write the report after each; say: takes a line about each row, and one about the files."""
    if request.repetitions < REPETITIONS:
        raise wrong_input("--repetitions", request.repetitions, f"{REPETITIONS} or more", "A spread needs them.")
    rows, began = chosen_rows(request.rows), time.monotonic()
    if request.train_minutes and TRAINS not in [row.name for row in rows]:
        raise wrong_input(
            "--train-minutes", f"it without row {TRAINS}", f"it with row {TRAINS}", f"Add --row {TRAINS}."
        )
    context = _context(request, host)

    def after(done: list[Measured]) -> None:
        """What is measured is written at once, so that a run that is stopped leaves it."""
        page, data = write_report(done, request.folder, about_run(context, began))
        last = done[-1]
        say(f"{last.row.name}: {last.seconds:.0f} s ({len(done)} of {len(rows)} rows)")
        if len(done) == len(rows):
            say(f"wrote {page} and {data}")

    run_rows(rows, context, after)


def _context(request: ReportRequest, host: Host) -> RowContext:
    from ...metrics.networks.networks import MetricNetworks
    from ...tinyworld.classifier import load_classifier
    from ..metric_networks import tiny_distance, tiny_text_image

    classifier = load_classifier()
    networks = MetricNetworks(tiny_text_image(), tiny_distance(classifier))
    seeds = tuple(range(request.repetitions))
    return RowContext(
        host, request.quick, seeds, networks, classifier, request.comfy, request.train_minutes, request.folder
    )
