"""The values of a node as the browser saves them, which is by position, under the names of the node's inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...engine.errors import RegionStyleError

# Types that ComfyUI's front end (1.49) shows a widget for.
WIDGET_TYPES = frozenset(
    [
        "INT",
        "FLOAT",
        "STRING",
        "BOOLEAN",
        "COMBO",
        "MARKDOWN",
        "TEXTAREA",
        "COLOR",
        "COLORS",
        "CURVE",
        "RANGE",
        "CHART",
        "GALLERIA",
        "PAINTER",
        "COMPOSITOR",
        "IMAGECOMPARE",
        "VIDEO_EDIT",
        "BOUNDING_BOX",
        "BOUNDING_BOXES",
        "LOAD_3D",
        "LOAD_3D_ADVANCED",
        "WEBCAM",
        "AUDIO_RECORD",
    ]
)
DYNAMIC_COMBO, AUTOGROW, MATCH_TYPE = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3", "COMFY_MATCHTYPE_V3"
CONTROL_VALUES = frozenset({"fixed", "increment", "increment-wrap", "decrement", "randomize"})
UPLOAD_BUTTONS = frozenset({"image", "video", "audio", "upload"})
EMPTY = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "IMAGECOMPARE": ["", ""]}  # the front end's defaults
# Made by the browser at the moment of queueing: a rendered view, a camera's picture, a recording.
MADE_IN_BROWSER = frozenset({("LOAD_3D", "image"), ("WEBCAM", "image"), ("AUDIO_RECORD", "audio")})

Spec = list[Any]  # [type, options]


def input_specs(definition: Mapping[str, Any]) -> Iterator[tuple[str, Spec]]:
    """(name, [type, options]) of a node's inputs, in the order in which its widgets are saved."""
    order = definition.get("input_order", {})
    for section in ("required", "optional"):
        specs = definition["input"].get(section) or {}
        names = [name for name in order.get(section, []) if name in specs]
        for name in [*names, *(name for name in specs if name not in names)]:
            yield name, _normal(specs[name])


def _normal(spec: Any) -> Spec:
    return [spec[0], spec[1] if len(spec) > 1 else {}]


def input_type(spec: Spec) -> str:
    """The type of an input; a V1 combo, whose type is the list of its choices, counts as COMBO."""
    return "COMBO" if isinstance(spec[0], list) else spec[1].get("widgetType") or spec[0]


def is_widget(spec: Spec) -> bool:
    """Whether the browser shows a widget for this input, and therefore saves a value for it."""
    if spec[1].get("forceInput"):
        return False
    return bool(input_type(spec) in WIDGET_TYPES or input_type(spec) == DYNAMIC_COMBO or spec[1].get("socketless"))


def widget_values(node: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    """Input name -> saved value; a value that the file is too old to have is the node's default.

    A value saved under its name (`widgets_values_named`, or a mapping as some packs write it) goes before one that is
    saved by its position. RegionStyleError, which names the node, for values that do not belong to this node.
    """
    saved, specs = node.get("widgets_values") or [], list(input_specs(definition))
    if isinstance(saved, Mapping):
        return _by_name(node, specs, saved)
    values = _Positional(node, _without_sockets(specs, list(saved))).read(specs, definition)
    named = node.get("widgets_values_named")
    return {**values, **_by_name(node, specs, named)} if isinstance(named, Mapping) else values


def _by_name(node: Mapping[str, Any], specs: list[tuple[str, Spec]], saved: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, spec in specs:
        if _checked(node, name, spec) and name in saved:
            values[name] = saved[name]
            inner = [(f"{name}.{key}", sub) for key, sub in _chosen(spec, saved[name])]
            values.update(_by_name(node, inner, saved))
    return values


def _checked(node: Mapping[str, Any], name: str, spec: Spec) -> bool:
    """`is_widget`; RegionStyleError for a kind of changing input that is not known here."""
    kind = spec[0] if isinstance(spec[0], str) else ""
    if (kind, name) in MADE_IN_BROWSER:
        raise RegionStyleError(
            f"node {node_name(node)}: its input {name} ({kind}) is made in the browser when it is queued. Replace the "
            "node by one that loads a file, or save the workflow in ComfyUI with File > Export (API)."
        )
    if kind.startswith("COMFY_") and kind.endswith("_V3") and kind not in (DYNAMIC_COMBO, AUTOGROW, MATCH_TYPE):
        raise RegionStyleError(
            f"node {node_name(node)}: the changing input {name} ({kind}) is not read from this form of the workflow. "
            "Save it in ComfyUI with File > Export (API)."
        )
    return is_widget(spec)


def _chosen(spec: Spec, value: Any) -> list[tuple[str, Spec]]:
    """The inputs that the chosen option of a changing combo brings; none for every other input."""
    if input_type(spec) != DYNAMIC_COMBO:
        return []
    inputs: Mapping[str, Any] = next(
        (option["inputs"] for option in spec[1].get("options", []) if option["key"] == value), {}
    )
    return [(key, _normal(sub)) for part in ("required", "optional") for key, sub in (inputs.get(part) or {}).items()]


def _without_sockets(specs: list[tuple[str, Spec]], saved: list[Any]) -> list[Any]:
    """Front ends before 1.16 saved a value for inputs that are sockets only; it is told by the number of values."""
    flags = []
    for name, spec in specs:
        if is_widget(spec) or spec[1].get("forceInput"):
            socket = bool(spec[1].get("forceInput"))
            flags += [socket, False] if _is_controlled(name, spec) else [socket]
    if len(flags) != len(saved):
        return saved
    return [value for value, socket in zip(saved, flags, strict=True) if not socket]


class _Positional:
    """Takes values from a list as the front end does, small widgets beside the inputs included."""

    def __init__(self, node: Mapping[str, Any], saved: list[Any]):
        self._node, self._saved = node, saved
        self._values: dict[str, Any] = {}

    def read(self, specs: list[tuple[str, Spec]], definition: Mapping[str, Any]) -> dict[str, Any]:
        required = definition["input"].get("required") or {}
        button = any(_uploads(spec) for _, spec in specs)  # stands behind the required inputs
        for name, spec in specs:
            if button and name not in required:
                self._drop_button()
                button = False
            self._take(name, spec)
        self._take_added()
        self._check_rest()
        return self._values

    def _take_added(self) -> None:
        """The widgets that the front end adds to Custom Combo itself: the chosen index, and the choices."""
        if self._node["type"] == "CustomCombo":
            names = ["index", *(f"option{number}" for number in range(1, len(self._saved)))]
            self._values.update(zip(names, self._saved, strict=False))
            self._saved = []

    def _take(self, name: str, spec: Spec) -> None:
        if not _checked(self._node, name, spec):
            return
        if self._saved:
            self._values[name] = self._saved.pop(0)
            self._drop_control(name, spec)
        elif (default := _default(spec)) is not None:
            self._values[name] = default
        for key, sub in _chosen(spec, self._values.get(name)):
            self._take(f"{name}.{key}", sub)

    def _drop_control(self, name: str, spec: Spec) -> None:
        """ "control after generate" behind a seed; behind a combo a filter too."""
        if _is_controlled(name, spec) and self._saved and self._saved[0] in CONTROL_VALUES:
            self._saved.pop(0)
            if input_type(spec) == "COMBO" and self._saved and self._saved[0] in ("", None):
                self._saved.pop(0)

    def _drop_button(self) -> None:
        if self._saved and isinstance(self._saved[0], str) and self._saved[0] in UPLOAD_BUTTONS:
            self._saved.pop(0)

    def _check_rest(self) -> None:
        """Buttons (upload, preview) are saved behind the last widget; a number there means another node version."""
        if any(isinstance(value, int | float) and not isinstance(value, bool) for value in self._saved):
            raise RegionStyleError(
                f"node {node_name(self._node)}: the workflow has {len(self._saved)} values more than the node has "
                "inputs. It was saved for another version of the node; open and save it again in ComfyUI."
            )


def _is_controlled(name: str, spec: Spec) -> bool:
    """Whether "control after generate" stands behind this widget."""
    return bool(spec[1].get("control_after_generate", name in ("seed", "noise_seed") and spec[0] == "INT"))


def _uploads(spec: Spec) -> bool:
    return any(key.endswith("_upload") and value for key, value in spec[1].items())


def _default(spec: Spec) -> Any:
    """What the front end puts where nothing is saved; None for nothing."""
    if spec[1].get("default") is not None:
        return spec[1]["default"]
    if input_type(spec) == DYNAMIC_COMBO:
        return next((option["key"] for option in spec[1].get("options", [])), None)
    if input_type(spec) == "COMBO":
        choices = spec[0] if isinstance(spec[0], list) else spec[1].get("options") or []
        return next(iter(choices), None)
    return EMPTY.get(input_type(spec))


def as_constant(value: Any) -> Any:
    """A list as a value would be taken for a link: the server unwraps this form."""
    return {"__value__": value} if isinstance(value, list) else value


def node_name(node: Mapping[str, Any]) -> str:
    """How messages name a node of a file: its title (or class) and its id."""
    return f'"{node.get("title") or node["type"]}" ({node["id"]})'
