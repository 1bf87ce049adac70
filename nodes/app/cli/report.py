"""`regionstyle report`."""

from __future__ import annotations

import argparse
import sys

from ..report.report import ReportRequest, make_report
from ..report.rows import all_rows
from .console import console_host


def run_report(args: argparse.Namespace) -> int:
    """List the rows, or run them and write the report."""
    if args.list:
        sys.stdout.write("".join(f"{row.name:16} {row.title}\n" for row in all_rows().values()))
        return 0
    request = ReportRequest(
        args.out, args.row, args.quick, args.repetitions, not args.no_comfy, args.train_minutes or 0.0
    )
    make_report(request, console_host(args.device), _say)
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
