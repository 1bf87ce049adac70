"""What the commands of the command line share: a parser with errors of one line, and the kinds of values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

DONE, PARTLY_FAILED, USER_ERROR, NOTHING_TO_DO, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes
DEFAULT = "default: %(default)s"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and to which -5,3 is a value as -5 is."""

    def __init__(self, *places: Any, **names: Any) -> None:
        super().__init__(*places, **names)
        self._negative_number_matcher = re.compile(r"-\d+(,-?\d+)*$|-\d*\.\d+$")

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (see '{self.prog} --help')\n")


def add_command(commands: argparse._SubParsersAction[Parser], name: str, text: str) -> Parser:
    """One command with its help; `--verbose` belongs to all of them."""
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.add_argument("--verbose", action="store_true", help="show the full Python traceback of an error")
    return parser


def add_device(parser: Parser) -> None:
    """The device networks run on."""
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda when there is one")


def box(text: str) -> tuple[int, int, int, int]:
    """`x0,y0,x1,y1` in pixels, with x0 < x1 and y0 < y1."""
    try:
        x0, y0, x1, y1 = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give four whole numbers x0,y0,x1,y1") from None
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise argparse.ArgumentTypeError(f"{text!r}: x1 must be larger than x0, y1 larger than y0, none negative")
    return x0, y0, x1, y1


def place(text: str) -> tuple[int, int]:
    """`x,y` in pixels; may be negative."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: give two whole numbers x,y") from None
    return x, y


def share(text: str) -> float:
    """A number from 0 to 1."""
    return _number(text, float, lambda value: 0 <= value <= 1, "a number from 0 to 1")


def _number(text: str, kind: type[int] | type[float], accepts: Callable[[float], bool], expected: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not accepts(value):
        raise argparse.ArgumentTypeError(f"{text!r}: give {expected}")
    return value


def minutes(text: str) -> float:
    """A finite number above 0."""
    return _number(text, float, lambda value: 0 < value < float("inf"), "a number of minutes above 0")


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    return int(_number(text, int, lambda value: value >= 1, "a whole number of 1 or more"))


def seed(text: str) -> int:
    """A whole number of 64 bits, not negative."""
    return int(_number(text, int, lambda value: 0 <= value < 2**64, "a whole number from 0 to 2^64 - 1"))


def assignment(text: str) -> tuple[str, str]:
    """`NAME=VALUE`, split at the first equals sign."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: give NAME=VALUE")
    return name.strip(), value
