"""Runs files of tests on the device of a run, every outcome written as it comes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from registry import Run

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent


def run_tests(run: Run, *files: str, options: tuple[str, ...] = ()) -> None:
    """files: below tests/. RuntimeError where pytest could not run them; a failed test is written down, no error."""
    line = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-p", "gpu_report", *options]
    place = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "REGIONSTYLE_PART": run.name, "PYTHONPATH": place}
    code = subprocess.run([*line, *(str(TESTS / file) for file in files)], cwd=TESTS.parent, env=environment).returncode
    if code not in (0, 1):  # all passed or skipped, some failed
        raise RuntimeError(f"pytest ended with {code}, see the log")
