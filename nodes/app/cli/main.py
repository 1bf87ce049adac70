"""The `regionstyle` command. Each command imports what it needs when it is called, so that `--help` is instant.

What each command accepts: `commands.py`.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper

from .arguments import INTERRUPTED, USER_ERROR, Parser
from .commands import (
    add_apply,
    add_benchmark,
    add_demo,
    add_download,
    add_evaluate,
    add_find,
    add_models,
    add_report,
    add_run,
    add_stylize,
    add_train,
)
from .harmony_commands import add_harmonize, add_make, add_paste

INTERNAL_ERROR = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    0: done; 1: part of a batch failed, or a fault of this program; 2: wrong input; 3: nothing to do (--strict);
    130: Ctrl-C.
    """
    _print_everything()
    args = build_parser().parse_args(argv)
    try:
        _check_places(args)
        return _implementation(args.command)(args)
    except KeyboardInterrupt:
        sys.stderr.write("regionstyle: cancelled\n")
        return INTERRUPTED
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        return _report(error)


_WRITES_FOLDERS = ("find", "make harmony-data", "make pairs", "train r2r-")  # commands whose --output is a folder


def _check_places(args: argparse.Namespace) -> None:
    """What a command writes can be written, which is asked before its work. `apply` asks itself: a file or folder."""
    if args.command == "apply":
        return
    from ..files import check_file, check_folder

    if getattr(args, "out", None) is not None:
        check_folder("--out", args.out)
    if getattr(args, "json", None) is not None:
        check_file("--json", args.json)
    if getattr(args, "output", None) is not None:
        (check_folder if args.command.startswith(_WRITES_FOLDERS) else check_file)("--output", args.output)


def _print_everything() -> None:
    """What a console's code page has no sign for is written as an escape: it does not fail a finished job."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


# Where each command is implemented: module beside this one, and function(args) -> exit code.
_COMMANDS = {
    "demo": (".demo", "run_demo"),
    "stylize": (".stylize", "run_stylize"),
    "find": (".find", "run_find"),
    "harmonize": (".harmonize", "run_harmonize"),
    "paste": (".harmonize", "run_paste"),
    "make pairs": (".make_pairs", "run_pairs"),
    "make harmony-data": (".harmony_data", "run_harmony_data"),
    "apply": (".apply", "run_apply"),
    "run": (".run", "run_workflow"),
    "models": (".download", "run_models"),
    "download": (".download", "run_download"),
    "train": (".tinyworld", "run_training"),
    "train style": (".train_style", "run_style_training"),
    "train expert": (".train_expert", "run_expert_training"),
    "train gate": (".train_gate", "run_gate_training"),
    "train harmonizer": (".train_harmonizer", "run_harmonizer_training"),
    "train sms-generator": (".train_generator", "run_generator_training"),
    "train r2r-vae": (".train_r2r", "run_r2r_training"),
    "train r2r-unet": (".train_r2r", "run_r2r_training"),
    "train r2r-controller": (".train_r2r", "run_r2r_training"),
    "evaluate": (".tinyworld", "run_evaluation"),
    "report": (".report", "run_report"),
    "benchmark": (".benchmark", "run"),
}


def _implementation(command: str) -> Callable[[argparse.Namespace], int]:
    module, function = _COMMANDS[command]
    implementation: Callable[[argparse.Namespace], int] = getattr(import_module(module, __package__), function)
    return implementation


def _report(error: Exception) -> int:
    """One line on stderr, and the exit code that belongs to it."""
    from ...engine.errors import RegionStyleError

    if isinstance(error, RegionStyleError):
        return _fail(str(error))
    if isinstance(error, ModuleNotFoundError):
        return _fail(f"the Python package {error.name!r} is missing; install it with: pip install {error.name}")
    if isinstance(error, OSError):
        return _fail(_describe_os_error(error))
    _fail(f"unexpected {type(error).__name__}: {error} (run again with --verbose for the details)")
    return INTERNAL_ERROR


def _fail(message: str) -> int:
    sys.stderr.write(f"regionstyle: {' '.join(message.split())}\n")
    return USER_ERROR


def _describe_os_error(error: OSError) -> str:
    remedy = {
        FileNotFoundError: "there is no such file or folder; check the path",
        PermissionError: "no permission; choose another place or change the permissions",
        IsADirectoryError: "this is a folder, a file is needed",
        NotADirectoryError: "this is a file, a folder is needed",
    }.get(type(error))
    return f"{error.filename}: {remedy}" if remedy and error.filename else str(error)


def build_parser() -> Parser:
    """The whole command line; touches no file and imports nothing heavy."""
    parser = Parser(prog="regionstyle", description="Restyle the thing a sentence names; leave the rest as it is.")
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    edits = (add_demo, add_stylize, add_find, add_harmonize, add_paste, add_apply, add_run)
    for add in (*edits, add_models, add_download, add_train, add_make, add_evaluate, add_report, add_benchmark):
        add(commands)
    return parser


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        root = import_module(__package__.rsplit(".", 3)[0])
        sys.stdout.write(f"{parser.prog} {root.__version__}\n")
        parser.exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
