"""Runs one part in this process: started by `run.py`, which stops it when its time is over."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from registry import LeftOut, Run, append, read_parts

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "support"), str(HERE.parent / "bench")]

LEFT_OUT = 5  # the exit code of a part that is left out


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--parts", type=Path, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    (part,) = (one for one in read_parts(args.parts) if one.name == args.name)
    ends = time.monotonic() + args.seconds
    run = Run(part.name, args.device, args.dry_run, args.scratch, args.results.parent, ends, args.results)
    try:
        part.action(run)
    except LeftOut as reason:
        append(args.results, {"part": part.name, "reason": str(reason)})
        return LEFT_OUT
    return 0


if __name__ == "__main__":
    sys.exit(main())
