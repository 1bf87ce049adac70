"""A pytest plugin: the outcome of every test as a JSON line, as soon as it is known, in the file REGIONSTYLE_RESULTS.

Used with `pytest -p gpu_report`; the part of the run is in REGIONSTYLE_PART.
"""

import json
import os


def pytest_runtest_logreport(report) -> None:
    """A test's own outcome, or that of its fixtures where they keep it from running."""
    if report.when != "call" and report.outcome == "passed":
        return
    said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")[-1500:]
    entry = {"part": os.environ["REGIONSTYLE_PART"], "test": report.nodeid, "outcome": report.outcome, "said": said}
    with open(os.environ["REGIONSTYLE_RESULTS"], "a", encoding="utf-8") as lines:
        lines.write(json.dumps(entry) + "\n")
