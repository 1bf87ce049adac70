"""Settings as options of a command: name, type with its range, choices, default and help."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...engine.errors import RegionStyleError
from ...engine.settings.checks import accepts, checked_value
from ...engine.settings.setting import Setting, chosen

_METAVARS = {"int": "N", "float": "F", "text": "TEXT"}
_READERS: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "text": str}


def add_setting_options(
    parser: Any, settings: type, *names: str, options: Mapping[str, str] | None = None, **overrides: Mapping[str, Any]
) -> None:
    """Options of a parser, or of a group of one, for the named settings of a dataclass, in this order.

    options: flags that are not the setting's own name, such as {"rate": "--lr"}. A switch that is on by default gets
    the flag that turns it off, `--no-NAME`. With `override(default=None)` the command can tell whether it was given;
    its help then says what holds otherwise.
    """
    for one in chosen(settings, names, overrides):
        parser.add_argument((options or {}).get(one.field) or flag_of(one), **_keywords(one))


def add_unset_options(
    parser: Any, settings: type, *names: str, usual: Mapping[str, str] | None = None, **overrides: Mapping[str, Any]
) -> None:
    """The same, each None where it is not given, as a command needs it that has no use for them without another option.

    usual: what holds then, in words, by the names of fields; for others the help names the setting's default.
    """
    for one in chosen(settings, names, overrides):
        usually = (usual or {}).get(one.field, one.default)
        parser.add_argument(flag_of(one), dest=one.field, **_unset_keywords(one, usually))


def add_method_options(
    parser: Any, method: str, settings: Mapping[str, Setting], usual: Mapping[str, str] | None = None
) -> None:
    """`--METHOD-NAME` for settings by the names users call them, None where it is not given: other methods have none of
    it. A switch is turned to what it is not by default. usual: what holds where it is not given, if not the default.
    """
    for name, one in settings.items():
        keywords = _unset_keywords(one, (usual or {}).get(name, one.default))
        parser.add_argument(method_flag(method, one, name), dest=f"{method}_{name}", **keywords)


def flag_of(one: Setting) -> str:
    """What a setting is called on the command line: what it is set by, or of a switch that is on, turned off by."""
    return _flag(one, one.field)


def method_flag(method: str, one: Setting, name: str) -> str:
    """What `add_method_options` calls a setting that users know by a name."""
    return _flag(one, name, f"{method}-")


def _flag(one: Setting, name: str, prefix: str = "") -> str:
    return f"--{prefix}{'no-' * (one.default is True)}{name.replace('_', '-')}"


def _without_default(one: Setting) -> str:
    """A setting's help without what a value for None stands for: leaving an option out says it better."""
    return one.help if one.none is None else one.help.split(f"; {one.none:g} takes")[0]


def given_options(args: argparse.Namespace, method: str, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """The options that `add_method_options` made and the user gave, by the settings' names."""
    values = {name: getattr(args, f"{method}_{name}") for name in settings}
    return {name: value for name, value in values.items() if value is not None}


def _unset_keywords(one: Setting, usually: Any) -> dict[str, Any]:
    """Of an option that is None where it is not given; usually: what holds then, for its help."""
    text = _uncapitalised(_without_default(one)).replace("%", "%%").rstrip(".")
    if one.kind == "bool":
        return {"action": "store_const", "const": not one.default, "help": text}
    return {**_keywords(replace(one, default=None)), "help": f"{text} (default: {usually})"}


def _keywords(one: Setting) -> dict[str, Any]:
    text = _uncapitalised(one.help).replace("%", "%%")
    if one.kind == "bool":
        return {"action": "store_true", "help": text}
    if one.default not in (None, ""):
        text = f"{text.rstrip('.')} (default: %(default)s)"
    if one.kind == "choice":
        return {"choices": list(one.choices), "default": one.default, "help": text}
    metavar = one.unit.upper() or _METAVARS[one.kind]
    return {"type": option_type(one), "default": one.default, "metavar": metavar, "help": text}


def _uncapitalised(text: str) -> str:
    """As the other options are described; an abbreviation stays as it is."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text


def option_type(one: Setting) -> Callable[[str], Any]:
    """Reads an option's text as a value that the setting accepts; argparse's error says what that is."""

    def read(text: str) -> Any:
        try:
            return checked_value(one, _READERS[one.kind](text))
        except (ValueError, RegionStyleError):
            raise argparse.ArgumentTypeError(f"{text!r}: give {accepts(one)}") from None

    return read
