"""What a setting accepts: its type, its range, its choices. One sentence for whatever else comes."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import wrong_input
from .setting import Setting, settings_by_name, settings_of

_LISTED = 10  # choices that an error lists
_LONGEST = 80  # characters of what came that an error quotes
_NOUNS = {"int": "a whole number", "float": "a number", "bool": "true or false", "text": "a text"}


def checked(kind: type, **values: Any) -> dict[str, Any]:
    """Values for settings of a dataclass, by the names users call them: what its constructor takes.

    RegionStyleError naming the setting, what came, what is accepted and what to do: for another type (a bool is no
    number, a text is none), a value out of range, NaN, and a name that the dataclass does not have.
    """
    declared = settings_by_name(kind)
    for name in values:
        if name not in declared:
            raise wrong_input(name, "it", f"one of: {', '.join(declared)}", "Leave it out, or correct its name.")
    return {declared[name].field: declared[name].value(checked_value(declared[name], v)) for name, v in values.items()}


def settings_from(values: Mapping[str, Any], *kinds: type) -> tuple[Any, ...]:
    """An object of each dataclass from values by the names users call them, which the node's door has checked.

    TypeError for a value that none of them has.
    """
    left, made = dict(values), []
    for kind in kinds:
        declared = settings_by_name(kind)
        found = {name: left.pop(name) for name in declared if name in left}
        made.append(kind(**{declared[name].field: declared[name].value(value) for name, value in found.items()}))
    if left:
        raise TypeError(f"{', '.join(left)}: no setting of {', '.join(kind.__name__ for kind in kinds)}.")
    return tuple(made)


def check_settings(settings: Any) -> None:
    """RegionStyleError for a settings object with a value that its field does not accept: call it in `__post_init__`.

    None passes where it is the field's default.
    """
    optional = {one.name for one in fields(settings) if one.default is None}
    for one in settings_of(settings.__class__).values():
        value = getattr(settings, one.field)
        if not (value is None and one.field in optional) and not _is_choice(one, value):
            checked_value(one, one.shown(value))


def _is_choice(one: Setting, value: Any) -> bool:
    """Whether a value is of the kind that the choices stand for, listed or not: from Python any will do."""
    return isinstance(one.choices, Mapping) and isinstance(value, tuple({type(made) for made in one.choices.values()}))


def checked_value(setting: Setting, value: Any) -> Any:
    """A value that the setting accepts, as its type: whole numbers in other forms (8.0) become int, numbers float."""
    made = _READ[setting.kind](value, setting)
    if made is None:
        raise wrong_input(setting.name, quoted(value), accepts(setting), _remedy(setting))
    return made


def accepts(setting: Setting) -> str:
    """What a setting accepts, in words."""
    if setting.kind == "choice":
        return f"one of: {_listed(list(setting.choices))}"
    noun = _NOUNS[setting.kind] + (f" of {setting.unit}" if setting.unit else "")
    if setting.low is not None and setting.high is not None:
        return f"{noun} from {setting.low:g} to {_number(setting.high)}"
    if setting.low is not None:
        return f"{noun} of {setting.low:g} or more"
    return noun


def _listed(choices: Sequence[str]) -> str:
    """All choices, or as many as a sentence bears: ComfyUI has dozens of samplers."""
    shown = choices if len(choices) <= _LISTED else choices[: _LISTED - 1]
    more = f" and {len(choices) - len(shown)} more" if len(shown) < len(choices) else ""
    return ", ".join(shown) + more


def quoted(value: Any) -> str:
    """How an error shows a value: short ones as Python writes them, objects by their class, on one line."""
    if value is None or isinstance(value, (bool, int, float)):
        try:
            return str(value)[:_LONGEST]
        except ValueError:
            return "a whole number of thousands of digits"  # Python refuses to write those
    if isinstance(value, str):
        text = value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."
        return repr(text) if text.isprintable() else ascii(text)
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return f"a {type(value).__name__} of shape {list(shape)}"
    return f"a {type(value).__name__}"


def in_range(value: float, low: float | None, high: float | None) -> bool:
    """False for NaN."""
    return (low is None or value >= low) and (high is None or value <= high) and value == value


def _remedy(setting: Setting) -> str:
    remedies = {"choice": "Choose one of these.", "bool": "Give one of the two.", "text": "Give a text."}
    return remedies.get(setting.kind, "Give such a number.")


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _int(value: Any, setting: Setting) -> int | None:
    if isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral):
        value = int(float(value)) if math.isfinite(value) and float(value).is_integer() else None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return None
    return int(value) if in_range(int(value), setting.low, setting.high) else None


def _float(value: Any, setting: Setting) -> float | None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        made = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return made if math.isfinite(made) and in_range(made, setting.low, setting.high) else None


def _bool(value: Any, setting: Setting) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any, setting: Setting) -> str | None:
    return value if isinstance(value, str) else None


def _choice(value: Any, setting: Setting) -> str | None:
    return value if isinstance(value, str) and value in setting.choices else None


_READ = {"int": _int, "float": _float, "bool": _bool, "text": _text, "choice": _choice}
