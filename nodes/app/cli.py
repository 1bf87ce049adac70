"""The `regionstyle` command. Each command imports what it needs when it is called, so that `--help` is instant."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

USER_ERROR = 2
INTERNAL_ERROR = 1
INTERRUPTED = 130
DEFAULT = "default: %(default)s"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 (wrong input), 130 (Ctrl-C), 1 (a fault of this program)."""
    args = build_parser().parse_args(argv)
    try:
        return _implementation(args.command)(args)
    except KeyboardInterrupt:
        sys.stderr.write("regionstyle: cancelled\n")
        return INTERRUPTED
    except Exception as error:
        if args.verbose:
            traceback.print_exc()
        return _report(error)


# Where each command is implemented: module beside this one, and function(args) -> exit code.
_COMMANDS = {
    "demo": (".demo", "run_demo"),
    "stylize": (".stylize", "run_stylize"),
    "run": (".run", "run_workflow"),
    "train": (".training", "run_training"),
    "train style": (".train_style", "run_style_training"),
    "evaluate": (".training", "run_evaluation"),
    "report": (".report", "run_report"),
    "benchmark": (".benchmark", "run_benchmark"),
}

# metrics/datasets/catalogue.py has the same names; a test compares them
_DATASETS = ("coco", "voc", "big", "least", "pie-bench", "lhq", "iharmony4", "realhm")


def _implementation(command: str) -> Callable[[argparse.Namespace], int]:
    module, function = _COMMANDS[command]
    implementation: Callable[[argparse.Namespace], int] = getattr(import_module(module, __package__), function)
    return implementation


def _report(error: Exception) -> int:
    """One line on stderr, and the exit code that belongs to it."""
    from ..engine.errors import RegionStyleError

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
    _add_demo(commands)
    _add_stylize(commands)
    _add_run(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_report(commands)
    _add_benchmark(commands)
    return parser


class _ShowVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        root = import_module(__package__.rsplit(".", 2)[0])
        sys.stdout.write(f"{parser.prog} {root.__version__}\n")
        parser.exit(0)


def _command(commands: argparse._SubParsersAction[Parser], name: str, text: str) -> Parser:
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help="show the full Python traceback of an error")
    return parser


def _add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(commands, "demo", "Restyle one object of a bundled picture and write every step as an image.")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-demo"), metavar="DIR", help=DEFAULT)
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--scene", type=int, metavar="N", help="another picture (default: the demo's own)")
    parser.add_argument("--style", help="another style (default: the one of the demo's sentence)")
    _add_device(parser)


def _add_stylize(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(commands, "stylize", "Restyle one thing, one region or the whole of your own picture.")
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("prompt", metavar="PROMPT", help='for example "make the red ball pixel art"')
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    _add_region(parser)
    parser.add_argument("--style", help="the style, when the prompt does not name it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--strength", type=_fraction, metavar="F", help="how far to go, 0 (not at all) to 1")
    parser.add_argument("--steps", type=_positive, metavar="N", help="sampling steps")
    parser.add_argument(
        "--model", default="tinyworld", metavar="tinyworld|FOLDER", help="a diffusers folder, SD1.5 class"
    )
    parser.add_argument("--expert", type=Path, metavar="LORA.safetensors", help="the style's LoRA, for your own model")
    _add_device(parser)


def _add_region(parser: Parser) -> None:
    region = parser.add_mutually_exclusive_group()
    region.add_argument("--mask", type=Path, metavar="FILE", help="image: white is restyled, black stays")
    region.add_argument("--box", type=_box, metavar="x0,y0,x1,y1", help="a rectangle in pixels, from the top left")
    region.add_argument("--whole", action="store_true", help="the whole picture")


def _add_run(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(commands, "run", "Run a ComfyUI workflow without the browser and collect its images.")
    parser.add_argument("workflow", type=Path, metavar="WORKFLOW.json", help="saved from ComfyUI, in either JSON form")
    parser.add_argument(
        "--input", type=_assignment, action="append", default=[], metavar="NAME=FILE",
        help="give FILE to the load node NAME (its id, its title, or the file name it holds now)",
    )  # fmt: skip
    parser.add_argument(
        "--set", type=_assignment, action="append", default=[], metavar="NODE.INPUT=VALUE",
        help="change one value; NODE is an id or a title",
    )  # fmt: skip
    parser.add_argument("--server", metavar="URL", help="a running ComfyUI (default: start the installed one)")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-out"), metavar="DIR", help=DEFAULT)


def _add_train(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Train a style expert from pictures, or the bundled networks."
    parser = commands.add_parser("train", help=text, description=text, allow_abbrev=False)
    networks = parser.add_subparsers(dest="network", required=True, metavar="style|tinyworld")
    _add_train_style(networks)
    _add_train_tinyworld(networks)


def _add_train_tinyworld(networks: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(networks, "tinyworld", "Train the bundled networks; resumes where it stopped.")
    parser.add_argument("stage", nargs="?", metavar="STAGE", help="one stage only (default: all that are not finished)")
    parser.add_argument("--time-budget", type=_minutes, required=True, metavar="MINUTES")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where checkpoints are kept")
    parser.add_argument("--from-nothing", action="store_true", help="start denoiser and experts from random weights")
    _add_device(parser)


def _add_train_style(networks: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(networks, "style", "Train a style expert (LoRA) from about ten pictures; Ctrl-C keeps the state.")
    parser.set_defaults(command="train style")
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="the pictures; FILE.txt beside one is its caption")
    add("-o", "--output", type=Path, required=True, metavar="OUT.safetensors")
    add("--style", metavar="WORDS", help="the style's words, for prompts (default: the name)")
    add("--name", help="what the expert is called (default: the output's name)")
    add("--model", default="tinyworld", metavar="tinyworld|FOLDER", help="a diffusers folder, SD1.5 or SDXL class")
    add("--steps", type=_positive, default=1000, metavar="N", help=DEFAULT)
    add("--rank", type=_positive, default=8, metavar="N", help=DEFAULT)
    add("--lr", type=float, metavar="RATE", help="learning rate (default: 1e-4; 1e-3 for the tiny world)")
    add("--resolution", type=_positive, metavar="PIXELS", help="side of the training pictures (default: the model's)")
    add("--batch", type=_positive, default=4, metavar="N", help=f"pictures per step ({DEFAULT})")
    add("--accumulate", type=_positive, default=1, metavar="N", help="take a batch in N parts, to save memory")
    add("--checkpointing", action="store_true", help="compute activations twice, to save memory")
    add("--layers", choices=["attention", "all"], default="all", help=f"which layers learn ({DEFAULT})")
    add("--crop", type=_fraction, default=1.0, metavar="F", help="smallest crop, as a share of the shorter side")
    add("--no-flip", action="store_true", help="do not use mirrored pictures, for styles with a left and a right")
    add("--layout", choices=["kohya", "diffusers"], help="of the file (default: what ComfyUI reads)")
    add("--preview-every", type=_positive, default=100, metavar="N", help=f"steps between two previews ({DEFAULT})")
    add("--seed", type=int, default=0, help=DEFAULT)
    add("--resume", action="store_true", help="go on where a training of the same output stopped")
    _add_device(parser)


def _add_evaluate(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(commands, "evaluate", "Measure the bundled networks on scenes they never saw.")
    parser.add_argument("what", choices=["tinyworld", "masks"], help="all networks, or masks per phrase and kind")
    parser.add_argument("--scenes", type=_positive, metavar="N", help="default: 100 for tinyworld, 500 for masks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file too")
    _add_device(parser)


def _add_report(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(commands, "report", "Repeat the papers' findings at small scale on the tiny world.")
    parser.add_argument("--quick", action="store_true", help="fewer scenes, the same repetitions")
    parser.add_argument("--row", action="append", default=[], metavar="NAME", help="only this row (default: all)")
    parser.add_argument("--list", action="store_true", help="list the rows and exit")
    parser.add_argument("--repetitions", type=_positive, default=3, metavar="N", help=f"3 or more ({DEFAULT})")
    parser.add_argument("--no-comfy", action="store_true", help="leave out what needs an installed ComfyUI")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-report"), metavar="DIR", help=DEFAULT)
    _add_device(parser)


def _add_benchmark(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = _command(commands, "benchmark", "The papers' protocols on their data sets, with your weights and data.")
    parser.add_argument("dataset", choices=_DATASETS, metavar="DATASET", help=", ".join(_DATASETS))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="where the data set was unpacked")
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument("--model", metavar="unchanged|tinyworld|FOLDER", help="make the results with this model")
    made.add_argument("--results", type=Path, metavar="DIR", help="score finished pictures, named like the samples")
    parser.add_argument("--expert", type=Path, metavar="LORA.safetensors", help="the style's LoRA, for your own model")
    parser.add_argument("--style", action="append", default=[], help="instead of the paper's styles; may be repeated")
    parser.add_argument("--style-images", type=Path, metavar="DIR", help="pictures of the style, for FID and ArtFID")
    parser.add_argument("--networks", type=Path, metavar="DIR", help="weights of LPIPS, FID, CFSD (default: stand-ins)")
    parser.add_argument("--clip", type=Path, metavar="DIR", help="a CLIP folder (default: the stand-in)")
    parser.add_argument("--vlm", type=Path, metavar="DIR", help="a LLaVA or Qwen-VL folder, for the questions Q1 to Q4")
    parser.add_argument("--pickscore", type=Path, metavar="DIR", help="PickScore's folder, for whole-picture data sets")
    parser.add_argument("--hps", type=Path, metavar="DIR", help="HPS v2's folder, likewise")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N samples")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("regionstyle-benchmark"), metavar="DIR", help=DEFAULT)
    _add_device(parser)


def _add_device(parser: Parser) -> None:
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda when there is one")


def _box(text: str) -> tuple[int, int, int, int]:
    """`x0,y0,x1,y1` in pixels, with x0 < x1 and y0 < y1."""
    try:
        x0, y0, x1, y1 = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give four whole numbers x0,y0,x1,y1") from None
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise argparse.ArgumentTypeError(f"{text!r}: x1 must be larger than x0, y1 larger than y0, none negative")
    return x0, y0, x1, y1


def _number(text: str, kind: type[int] | type[float], accepts: Callable[[float], bool], expected: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"{text!r}: give {expected}")
    return value


def _fraction(text: str) -> float:
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _minutes(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number of minutes above 0")


def _positive(text: str) -> int:
    return int(_number(text, int, lambda value: value >= 1, "a whole number of 1 or more"))


def _assignment(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, split at the first equals sign."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    return name.strip(), value


if __name__ == "__main__":
    raise SystemExit(main())
