"""The results of a run as a table: what every part measured, with the wanted values beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REACHED = {True: "yes", False: "**no**", None: ""}


def read_results(file: Path) -> list[dict[str, Any]]:
    """The entries of a results file; a last line that a cut-off run left unfinished is not one."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return entries


def number(value: float | None) -> str:
    """Four digits, and no exponent for what is read as a number; None: not on this machine."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tests_of(entries: list[dict[str, Any]]) -> list[str]:
    """A line of counts, and one for every test that failed."""
    tests = [entry for entry in entries if "test" in entry]
    counts = {kind: sum(test["outcome"] == kind for test in tests) for kind in ("passed", "failed", "skipped")}
    if not tests:
        return []
    lines = [", ".join(f"{count} {kind}" for kind, count in counts.items() if count) + "."]
    lines += [f"- **failed**: {t['test']}: {_line(t.get('said', ''))}" for t in tests if t["outcome"] == "failed"]
    skipped = {_line(t.get("said", "")) for t in tests if t["outcome"] == "skipped"}
    return [*lines, *(f"- skipped: {reason}" for reason in sorted(skipped)), ""]


def _line(text: str) -> str:
    return " ".join(text.split())[-400:]


def figures_of(entries: list[dict[str, Any]]) -> list[str]:
    figures = [entry for entry in entries if "figure" in entry]
    if not figures:
        return []
    lines = ["| what | measured | wanted | reached |", "|---|---|---|---|"]
    for f in figures:
        value = f"{number(f['value'])} {f['unit']}"
        lines.append(f"| {f['figure']} | {value} | {f.get('wanted', '')} | {REACHED[f.get('reached')]} |")
    return [*lines, ""]


def table(entries: list[dict[str, Any]]) -> str:
    """The whole page."""
    lines = ["# Results", ""]
    lines += [f"{key}: {value}  " for entry in entries if "machine" in entry for key, value in entry["machine"].items()]
    for part in dict.fromkeys(entry["part"] for entry in entries if "part" in entry):
        own = [entry for entry in entries if entry.get("part") == part]
        state = next((entry for entry in reversed(own) if "state" in entry), None)
        said = f"{state['state']}, {state['seconds']:.0f} s of {state['limit']:.0f} s" if state else "cut off"
        lines += ["", f"## {part}", "", f"{said}. {_line(state.get('said', '')) if state else ''}".rstrip(), ""]
        lines += [*tests_of(own), *figures_of(own)]
    return "\n".join(lines) + "\n"


def write_table(results: Path) -> None:
    """`results.md` beside a results file, made anew."""
    results.with_suffix(".md").write_text(table(read_results(results)), encoding="utf-8")
