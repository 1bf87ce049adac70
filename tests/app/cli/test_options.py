"""What each command accepts is for ever, as scripts depend on it: names, defaults, choices and kinds of values.

`options.json` holds it. `REGIONSTYLE_WRITE_OPTIONS=1` writes the file again; then read the difference before
committing it.
"""

import argparse
import json
import os
from pathlib import Path

from regionstyle.nodes.app.cli.main import build_parser

SAVED = Path(__file__).with_name("options.json")
SAMPLES = ("8", "0.5", "256", "1e-3", "0,0,4,4", "NAME=VALUE", "words")


def commands(parser: argparse.ArgumentParser, name: str = "") -> dict[str, argparse.ArgumentParser]:
    """Every command that runs something, by its name with spaces."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        return {name: parser}
    found = {}
    for word, child in groups[0].choices.items():
        found |= commands(child, f"{name} {word}".strip())
    return found


def kind(action: argparse.Action) -> str:
    """What values become: the type of the first sample that the option takes."""
    for sample in SAMPLES:
        try:
            value = (action.type or str)(sample)
            return "Path" if isinstance(value, Path) else type(value).__name__
        except (argparse.ArgumentTypeError, ValueError):
            continue
    return "unknown"


def option(action: argparse.Action) -> dict:
    return {
        "names": action.option_strings or [action.metavar or action.dest],
        "kind": "switch" if action.nargs == 0 else kind(action),
        "default": action.default if isinstance(action.default, (int, float, type(None))) else str(action.default),
        "choices": None if action.choices is None else sorted(map(str, action.choices)),
        "required": action.required,
        "nargs": action.nargs if action.nargs != 0 else None,
    }


def options() -> dict:
    return {
        name: {action.dest: option(action) for action in parser._actions if action.dest != "help"}
        for name, parser in commands(build_parser()).items()
    }


def test_options_are_those_of_the_last_release():
    found = options()
    if os.environ.get("REGIONSTYLE_WRITE_OPTIONS"):
        SAVED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    saved = json.loads(SAVED.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(saved)
    for name in saved:
        assert found[name] == saved[name], name


def test_every_number_says_its_default():
    for name, parser in commands(build_parser()).items():
        shown = " ".join(parser.format_help().split())
        assert "%(" not in shown, name
        for action in parser._actions:
            if isinstance(action.default, (int, float)) and not isinstance(action.default, bool):
                assert f"default: {action.default})" in shown, (name, action.dest)
