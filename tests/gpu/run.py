"""Runs the parts in their order, each in a process of its own with its own limit; started by `run.sh`.

Results are written as they come, one JSON line each, into OUT/results.jsonl; after every part OUT/results.md is the
table of what there is, and OUT/log.txt what all parts printed. A part that fails or takes too long is told so and
stopped, with all it started, and the next one begins. Exit code 1 where a part did not end or a test failed; figures
fail nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from one_part import LEFT_OUT
from registry import PARTS, Part, append, read_parts
from results import read_results, write_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOTAL = 525  # seconds: nine minutes with what comes before and after
NO_TIME = "not begun: no time left"
LEAST = 2  # seconds in which no part begins any more


class Runner:
    """The parts of one run. results: the file that everybody appends to."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self.args, self.scratch = args, scratch
        self.results, self.log = args.out / "results.jsonl", args.out / "log.txt"
        self.ends = time.monotonic() + args.seconds

    def run(self, part: Part) -> str:
        """One part; the state it ended in."""
        limit = min(part.limit(self.args.dry_run), self.ends - time.monotonic())
        began = time.monotonic()
        state = NO_TIME if limit < LEAST else self._in_process(part, limit)
        said = next((e["reason"] for e in reversed(read_results(self.results)) if "reason" in e), "")
        entry = {"part": part.name, "state": state, "seconds": time.monotonic() - began, "limit": max(limit, 0.0)}
        append(self.results, entry | ({"said": said} if state == "left out" else self._last_words(state)))
        write_table(self.results)
        return state

    def _in_process(self, part: Part, limit: float) -> str:
        folder = self.scratch / part.name
        folder.mkdir()
        line = [sys.executable, str(HERE / "one_part.py"), part.name, "--parts", str(self.args.parts)]
        line += ["--scratch", str(folder), "--results", str(self.results), "--device", self.args.device]
        line += ["--seconds", str(limit), *(["--dry-run"] if self.args.dry_run else [])]
        with self.log.open("ab") as log:
            log.write(f"\n===== {part.name} =====\n".encode())
            log.flush()
            self.began_at = log.tell()
            process = subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True, env=self._environment())
            return self._wait(process, limit)

    def _environment(self) -> dict[str, str]:
        # TMPDIR: what a stopped part leaves behind goes when the run ends.
        device = {"REGIONSTYLE_DEVICE": self.args.device, "REGIONSTYLE_RESULTS": str(self.results)}
        return {**os.environ, **device, "TMPDIR": str(self.scratch), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}

    def _wait(self, process: subprocess.Popen[bytes], limit: float) -> str:
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return "stopped: its time was over"
        finally:
            stop_group(process)
        return {0: "ended", LEFT_OUT: "left out"}.get(code, f"failed ({code})")

    def _last_words(self, state: str) -> dict[str, str]:
        if not state.startswith(("failed", "stopped")):
            return {}
        with self.log.open("rb") as log:
            log.seek(self.began_at)
            return {"said": log.read().decode(errors="replace")[-1500:]}


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it started: servers, tests, trainings."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def machine(device: str) -> dict[str, str]:
    """What the figures were measured on."""
    import torch

    card = "none: a dry run at small sizes, its numbers say nothing"
    if device == "cuda":
        seen = torch.cuda.get_device_properties(0)
        card = f"{seen.name}, {seen.total_memory / 2**30:.0f} GiB, compute {seen.major}.{seen.minor}"
    return {
        "GPU": card,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "Python": platform.python_version(),
    }


def chosen(parts: list[Part], only: str) -> list[Part]:
    """The parts whose names are given, or all; SystemExit for a name that is none."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    if unknown := [name for name in names if name not in [part.name for part in parts]]:
        known = ", ".join(part.name for part in parts)
        raise SystemExit(f"--only: got {', '.join(unknown)}, expected names out of: {known}.")
    return [part for part in parts if not names or part.name in names]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at small sizes: is everything whole?")
    parser.add_argument("--only", default="", metavar="PART,PART", help="these parts alone")
    parser.add_argument("--list", action="store_true", help="name the parts and end")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu-results", help="folder of the results")
    parser.add_argument("--seconds", type=float, help=f"of all parts together (default: {TOTAL}; no end in a dry run)")
    parser.add_argument("--spent", type=float, default=0, help=argparse.SUPPRESS)  # by run.sh before this
    parser.add_argument("--parts", type=Path, default=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def interrupted(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run_all(args: argparse.Namespace, parts: list[Part]) -> bool:
    """Whether all parts ended or were left out, and no test failed. Figures fail nothing."""
    args.out.mkdir(parents=True, exist_ok=True)
    for old in (*args.out.glob("results.*"), *args.out.glob("weights-*.tar"), args.out / "log.txt"):
        old.unlink(missing_ok=True)
    states = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        runner = Runner(args, Path(scratch))
        append(runner.results, {"machine": machine(args.device)})
        try:
            for part in parts:
                states.append(runner.run(part))
                sys.stdout.write(f"{part.name}: {states[-1]}\n")
                sys.stdout.flush()
        finally:
            write_table(runner.results)
    failed = [entry for entry in read_results(runner.results) if entry.get("outcome") == "failed"]
    sys.stdout.write(runner.results.with_suffix(".md").read_text(encoding="utf-8"))
    return not failed and all(state in ("ended", "left out", NO_TIME) for state in states)


def main() -> int:
    args = arguments()
    parts = chosen(read_parts(args.parts), args.only)
    if args.list:
        sys.stdout.writelines(f"{p.name} ({p.seconds:.0f} s)\n" for p in parts)
        return 0
    import torch

    args.device = "cpu" if args.dry_run else "cuda"
    if not args.dry_run and not torch.cuda.is_available():
        sys.stderr.write("torch sees no GPU here. On a CPU: tests/gpu/run.sh --dry-run\n")
        return 2
    args.out = args.out.resolve()
    args.seconds = args.seconds or (sum(p.dry_seconds for p in parts) + 60 if args.dry_run else TOTAL) - args.spent
    signal.signal(signal.SIGTERM, interrupted)
    return 0 if run_all(args, parts) else 1


if __name__ == "__main__":
    sys.exit(main())
