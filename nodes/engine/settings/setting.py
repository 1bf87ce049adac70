"""One setting: default, range, unit, step, help and the like, declared at the field of its dataclass.

    @dataclass(frozen=True)
    class RestyleSettings:
        strength: float = setting(0.6, low=0, high=1, step=0.01, help="How much is redrawn.")

        def __post_init__(self) -> None:
            check_settings(self)

From there follow the inputs of nodes (`node_inputs.py`), the options of commands (`options.py`), and what is accepted
(`checks.py`). A node or command that differs says so where it names the setting, with `override`. Nothing heavy is
imported here, nor by the modules that declare settings: `regionstyle --help` reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Value = TypeVar("Value")
# What torch's generators take, and ComfyUI's KSampler. On the CPU, where both draw their noise, torch reads the low 32
# bits only: seeds 5 and 5 + 2**32 give one picture, here as there.
LARGEST_SEED = 2**64 - 1
_DECLARED = "regionstyle setting"
_KINDS = {int: "int", float: "float", bool: "bool", str: "text"}


@dataclass(frozen=True)
class Setting:
    """What is known of a setting.

    field: its name in the dataclass; name: what users call it; kind: "int", "float", "bool", "text" or "choice";
    default: as users give it; help: one or two sentences; low, high: the range, both included; step: of the arrows in
    the browser; round: what the browser rounds to, False for not at all; unit: of a number, in the plural; choices:
    what may be chosen; none: what users give for None, which they cannot; multiline: of a text; advanced: hidden at
    first; varies: a seed, which the browser may change after each run; optional: an input that was added later, which
    older workflows do not have.
    """

    field: str
    name: str
    kind: str
    default: Any
    help: str = ""
    low: float | None = None
    high: float | None = None
    step: float | None = None
    round: float | bool | None = None
    unit: str = ""
    choices: Sequence[str] | Mapping[str, Any] = ()
    none: Any = None
    multiline: bool = False
    advanced: bool = False
    varies: bool = False
    optional: bool = False

    def value(self, given: Any) -> Any:
        """What the dataclass holds for what a user gave: the value of a choice, None for `none`."""
        if isinstance(self.choices, Mapping) and given in self.choices:
            return self.choices[given]
        return None if self.none is not None and given == self.none else given

    def shown(self, value: Any) -> Any:
        """What a user gives for a value of the dataclass: the other way round."""
        if isinstance(self.choices, Mapping):
            return next((name for name, choice in self.choices.items() if choice == value), value)
        return self.none if value is None else value


def setting(default: Value, **declared: Any) -> Value:
    """A field of a settings dataclass with its default; `declared`: fields of `Setting`, `name` where users call it
    otherwise than the dataclass does."""
    return field(default=default, metadata={_DECLARED: declared})  # type: ignore[no-any-return]


def seed_setting(help: str, **declared: Any) -> int:
    """A seed of 64 bits, 0 unless given."""
    return setting(0, **{"low": 0, "high": LARGEST_SEED, "varies": True, "help": help, **declared})


def override(**changes: Any) -> dict[str, Any]:
    """How a node's or command's own form of a setting differs: fields of `Setting`. TypeError for an unknown one."""
    if unknown := changes.keys() - {one.name for one in dataclasses.fields(Setting)}:
        raise TypeError(f"{', '.join(sorted(unknown))}: no property of a setting.")
    return changes


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """The settings that a dataclass declares, by the names of its fields, in their order."""
    hints = get_type_hints(kind)
    declared = [one for one in dataclasses.fields(kind) if _DECLARED in one.metadata]
    return {one.name: _read(one, hints[one.name]) for one in declared}


def settings_by_name(kind: type) -> dict[str, Setting]:
    """The same, by the names users call them."""
    return {one.name: one for one in settings_of(kind).values()}


def chosen(kind: type, names: Iterable[str], overrides: Mapping[str, Mapping[str, Any]]) -> list[Setting]:
    """The settings of the named fields of a dataclass, in the order of the names and then of the overrides of others.

    KeyError for a field that the dataclass does not declare as a setting.
    """
    declared = settings_of(kind)
    return [replace(declared[name], **overrides.get(name, {})) for name in dict.fromkeys([*names, *overrides])]


def _read(one: dataclasses.Field[Any], hint: Any) -> Setting:
    declared = {"name": one.name, "field": one.name, "kind": _kind(hint), **one.metadata[_DECLARED]}
    if "choices" in declared:
        declared["kind"] = "choice"
    made = Setting(default=one.default, **declared)
    return replace(made, default=made.shown(one.default))


def _kind(hint: Any) -> str:
    """The kind of a field by its type; that of an optional one is its other type's."""
    if get_origin(hint) in (Union, UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return "choice" if get_origin(hint) is Literal else _KINDS.get(hint, "choice")
