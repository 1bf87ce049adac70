"""The base class of this pack's nodes: one door before `execute` that checks every input against what it declares,
and one way to say something on the node.

ComfyUI checks typed values against their range, but nothing that comes over a link, and 0.3.64 no combo of this kind.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from comfy_api.latest import io, ui

from ..errors import RegionStyleError, wrong_input
from ..host.messages import show_message, warn
from .checks import checked_value
from .node_inputs import setting_of_input
from .sockets import check_socket, named

_DOOR = "_regionstyle_door"


class Node(io.ComfyNode):
    """A node whose `execute` gets every declared input, checked; what is not given has the declared default.

    `execute` names no defaults of its own. Called from Python it takes inputs by name, or by place: the required ones
    in their order, then the optional ones. RegionStyleError for the first input that is not accepted. An error's
    sentence is shown on the node: a front end's own notice says only that there was one.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = cls.__dict__.get("execute")
        # ComfyUI copies classes, and what is copied has its door
        if own is not None and not hasattr(own.__func__, _DOOR):
            cls.execute = classmethod(_with_door(own.__func__))  # type: ignore[method-assign, assignment]

    @classmethod
    def say(cls, text: str = "", *, warning: str = "") -> Any:
        """Show a warning, then a text, on this node while it runs; returns them as the `ui` output, for /history (None
        for nothing).

        The warning, what the user would rather know before the result is used, is also written to the log. Its lines
        are left out of the text.
        """
        if warning:
            warn(cls.define_schema().display_name, warning)
        warnings = warning.splitlines()
        said = "\n".join([*warnings, *(line for line in text.splitlines() if line not in warnings)])
        show_message(said)
        return ui.PreviewText(said) if said else None


def _with_door(execute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(execute)
    def checked_execute(cls: Any, *places: Any, **given: Any) -> Any:
        show_message("")  # what an earlier run said is no longer true
        try:
            return execute(cls, **checked_inputs(cls.define_schema().inputs, places, given))
        except RegionStyleError as error:
            show_message(str(error))
            raise

    setattr(checked_execute, _DOOR, True)
    return checked_execute


def checked_inputs(inputs: Iterable[Any], places: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The value of every declared input: those given, checked, and the defaults of those that are not."""
    declared = sorted(inputs, key=lambda one: bool(one.optional))
    named = {one.id: value for one, value in zip(declared, places, strict=False)} | given
    unknown = [name for name in named if name not in {one.id for one in declared}]
    if unknown or len(places) > len(declared):
        got = ", ".join(unknown) or f"{len(places)} values"
        raise wrong_input("inputs", got, f"some of: {', '.join(one.id for one in declared)}", "Leave the others out.")
    checked = {one.id: _checked(one, named[one.id]) for one in declared if one.id in named}
    return {one.id: checked[one.id] if one.id in checked else _default(one) for one in declared}


def _checked(one: Any, value: Any) -> Any:
    if value is None and one.optional:
        return None
    setting = setting_of_input(one)
    if setting is not None:
        return checked_value(setting, value)
    check_socket(one, value)
    return value


def _default(one: Any) -> Any:
    default = getattr(one, "default", None)
    if default is None and not one.optional:
        raise wrong_input(one.id, "nothing", named(str(one.get_io_type())), "Connect it, or give a value.")
    return default
