"""Settings as inputs of a ComfyUI node, and inputs as settings again for the check at the node's door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..node_schema import node_input
from .setting import Setting, chosen

_CLASSES = {"int": "Int", "float": "Float", "bool": "Boolean", "text": "String", "choice": "Combo"}
_KINDS = {"INT": "int", "FLOAT": "float", "BOOLEAN": "bool", "STRING": "text", "COMBO": "choice"}


def node_inputs(settings: type, *names: str, **overrides: Mapping[str, Any]) -> list[Any]:
    """Inputs of a node for the named settings of a dataclass, in this order.

    A node may have its own form of one: `node_inputs(RestyleSettings, "steps", strength=override(low=0.01))`;
    it may stand among the names to have its place there.
    """
    return [input_of(one) for one in chosen(settings, names, overrides)]


def node_input_of(settings: type, name: str, **changes: Any) -> Any:
    """One input of a node, for the places where others stand between."""
    return node_inputs(settings, name, **{name: changes})[0]


def input_of(setting: Setting) -> Any:
    """The io input of a setting, with default, range, step and help."""
    from comfy_api.latest import io

    options: dict[str, Any] = {"default": setting.default, "tooltip": setting.help, **_range(setting)}
    options |= {"advanced": True} if setting.advanced else {}
    options |= {"multiline": True} if setting.multiline else {}
    options |= {"optional": True} if setting.optional else {}
    options |= {"control_after_generate": True} if setting.varies else {}
    options |= {"options": list(setting.choices)} if setting.kind == "choice" else {}
    return node_input(getattr(io, _CLASSES[setting.kind]), setting.name, **options)


def _range(setting: Setting) -> dict[str, Any]:
    number = {"int": int, "float": float}.get(setting.kind)
    if number is None:
        return {}
    given = {"min": setting.low, "max": setting.high, "step": setting.step}
    options: dict[str, Any] = {name: number(value) for name, value in given.items() if value is not None}
    return options | ({} if setting.round is None else {"round": setting.round})


def setting_of_input(one: Any) -> Setting | None:
    """What an io input accepts as a setting; None for a socket without a widget.

    A combo without a default lists files: any text passes, since the loader looks for the file and says more than
    that it is not in the list.
    """
    kind = _KINDS.get(str(one.get_io_type()))
    if kind is None:
        return None
    low, high = getattr(one, "min", None), getattr(one, "max", None)
    if kind == "choice" and one.default is None:
        return Setting(one.id, one.id, "text", None)
    choices = tuple(one.options) if kind == "choice" else ()
    return Setting(one.id, one.id, kind, one.default, low=low, high=high, choices=choices)
