"""Reading ComfyUI workflows, and turning the form that the browser saves into the form that the server runs.

API form: `{id: {"class_type": ..., "inputs": {name: value or [id, output slot]}}}`, what `POST /prompt` accepts.
UI form: `{"nodes": [...], "links": [...]}`, what the browser saves; its widget values stand in lists without names,
so the definitions of the nodes (`/object_info`) are needed to read it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...engine.errors import RegionStyleError

Prompt = dict[str, dict[str, Any]]

# Modes of a node in the UI form (LiteGraph's numbers).
MUTED, BYPASSED = 2, 4
# Nodes that exist in the browser only.
NOTES = frozenset({"Note", "MarkdownNote"})
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"})
CONTROL_VALUES = frozenset({"fixed", "increment", "decrement", "randomize"})


def read_workflow(path: Path) -> dict[str, Any]:
    """The JSON in the file; RegionStyleError when it is no workflow of either form."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RegionStyleError(f"{path}: not a JSON file ({error}). Save the workflow from ComfyUI.") from error
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # the body of a POST /prompt
    if not isinstance(data, dict) or not (is_ui_form(data) or is_api_form(data)):
        raise RegionStyleError(f"{path}: not a ComfyUI workflow. Save it from ComfyUI: Save, or Export (API).")
    return data


def is_ui_form(data: Mapping[str, Any]) -> bool:
    return isinstance(data.get("nodes"), list) and isinstance(data.get("links", []), list)


def is_api_form(data: Mapping[str, Any]) -> bool:
    return bool(data) and all(isinstance(node, dict) and "class_type" in node for node in data.values())


def class_types(data: Mapping[str, Any]) -> set[str]:
    """The node classes that must be known to run the workflow, in either form."""
    if is_ui_form(data):
        return {node["type"] for node in data["nodes"] if not _is_virtual(node) and node.get("mode", 0) != MUTED}
    return {node["class_type"] for node in data.values()}


def to_api_form(data: Mapping[str, Any], definitions: Mapping[str, Any]) -> Prompt:
    """The workflow in API form; `definitions` is `/object_info` for at least `class_types(data)`."""
    if not is_ui_form(data):
        return {str(node_id): dict(node) for node_id, node in data.items()}
    return _Graph(data, definitions).to_api_form()


def input_specs(definition: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """(name, [type, options]) of a node's inputs, in the order in which its widgets are saved."""
    order = definition.get("input_order", {})
    for section in ("required", "optional"):
        specs = definition["input"].get(section) or {}
        names = [name for name in order.get(section, []) if name in specs]
        for name in [*names, *(name for name in specs if name not in names)]:
            spec = specs[name]
            yield name, [spec[0], spec[1] if len(spec) > 1 else {}]


def input_type(spec: list[Any]) -> str:
    """The type of an input; a V1 combo, whose type is the list of its choices, counts as COMBO."""
    return "COMBO" if isinstance(spec[0], list) else spec[1].get("widgetType") or spec[0]


def is_widget(spec: list[Any]) -> bool:
    """Whether the browser shows a widget for this input, and therefore saves a value for it."""
    if spec[1].get("forceInput") or spec[1].get("defaultInput"):
        return False
    return bool(input_type(spec) in WIDGET_TYPES or spec[1].get("socketless"))


def _is_virtual(node: Mapping[str, Any]) -> bool:
    return node["type"] in NOTES or node["type"] in (REROUTE, PRIMITIVE)


class _Graph:
    """One workflow in UI form, with what is needed to follow its links."""

    def __init__(self, data: Mapping[str, Any], definitions: Mapping[str, Any]):
        self.nodes = {str(node["id"]): node for node in data["nodes"]}
        self.definitions = definitions
        self.links = dict(_read_link(link) for link in data.get("links", []))
        # the browser writes null, not an empty list, where there are none
        subgraphs = {graph.get("id") for graph in (data.get("definitions") or {}).get("subgraphs") or []}
        for node in data["nodes"]:
            if node["type"] in subgraphs:
                raise RegionStyleError(
                    f"node {_name(node)} is a subgraph, which is not read here. "
                    "In ComfyUI, unpack it or save the workflow with File > Export (API)."
                )

    def to_api_form(self) -> Prompt:
        active = [n for n in self.nodes.values() if not _is_virtual(n) and n.get("mode", 0) not in (MUTED, BYPASSED)]
        return {str(node["id"]): self._convert(node) for node in active}

    def _convert(self, node: Mapping[str, Any]) -> dict[str, Any]:
        definition = self.definitions.get(node["type"])
        if definition is None:
            raise RegionStyleError(f"node {_name(node)}: this ComfyUI has no node {node['type']}. Install its pack.")
        inputs = {name: _as_constant(value) for name, value in self._widget_values(node, definition).items()}
        for slot in node.get("inputs") or []:
            source = self._source(slot.get("link"))
            if source is not None:
                inputs[slot["name"]] = source
        title = node.get("title") or definition.get("display_name") or node["type"]
        return {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}

    def _widget_values(self, node: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
        saved = node.get("widgets_values") or []
        widgets = [(name, spec) for name, spec in input_specs(definition) if _checked_widget(node, name, spec)]
        if isinstance(saved, dict):  # some packs save names
            return {name: saved[name] for name, _ in widgets if name in saved}
        return _pair(node, widgets, list(saved))

    def _source(self, link_id: Any) -> Any:
        """What arrives over a link: `[node id, slot]`, a primitive node's value, or None for nothing.

        Reroutes and bypassed nodes are passed through, a muted node sends nothing: as the browser does it.
        """
        seen = set()
        while link_id is not None and link_id in self.links and link_id not in seen:
            seen.add(link_id)
            node_id, slot = self.links[link_id]
            node = self.nodes.get(node_id)
            if node is None or node.get("mode", 0) == MUTED:
                return None
            if node["type"] == PRIMITIVE:
                return _as_constant((node.get("widgets_values") or [None])[0])
            if node["type"] == REROUTE:
                link_id = node["inputs"][0].get("link")
            elif node.get("mode", 0) == BYPASSED:
                link_id = _bypass(node, slot)
            else:
                return [node_id, slot]
        return None


def _read_link(link: Any) -> tuple[Any, tuple[str, int]]:
    """link id -> (origin node id, origin slot); links are lists in format 0.4 and objects in format 1."""
    if isinstance(link, dict):
        return link["id"], (str(link["origin_id"]), int(link["origin_slot"]))
    return link[0], (str(link[1]), int(link[2]))


def _bypass(node: Mapping[str, Any], slot: int) -> Any:
    """The link that replaces output `slot` of a bypassed node: that slot's input if its type fits, else the first."""
    inputs = node.get("inputs") or []
    wanted = node["outputs"][slot]["type"]
    candidates = [*inputs[slot : slot + 1], *inputs]
    return next((i.get("link") for i in candidates if i.get("type") in (wanted, "*") and i.get("link")), None)


def _checked_widget(node: Mapping[str, Any], name: str, spec: list[Any]) -> bool:
    if isinstance(spec[0], str) and spec[0].startswith("COMFY_") and spec[0].endswith("_V3"):
        raise RegionStyleError(
            f"node {_name(node)}: the changing input {name} is not read from this form of the workflow. "
            "Save it in ComfyUI with File > Export (API)."
        )
    return is_widget(spec)


def _pair(node: Mapping[str, Any], widgets: list[tuple[str, list[Any]]], saved: list[Any]) -> dict[str, Any]:
    """Names for the saved values, in order; a value that the file is too old to have gets the node's default."""
    values: dict[str, Any] = {}
    for name, spec in widgets:
        if saved:
            values[name] = saved.pop(0)
            _drop_companions(name, spec, saved)
        elif "default" in spec[1]:
            values[name] = spec[1]["default"]
    # Buttons (upload, preview) are saved behind the last widget.
    if any(not isinstance(value, str | None) for value in saved):
        raise RegionStyleError(
            f"node {_name(node)}: the workflow has {len(saved)} values more than the node has inputs. "
            "It was saved for another version of the node; open and save it again in ComfyUI."
        )
    return values


def _drop_companions(name: str, spec: list[Any], saved: list[Any]) -> None:
    """Removes the values of the small widgets that the browser puts behind some widgets."""
    options = spec[1]
    controlled = options.get("control_after_generate", name in ("seed", "noise_seed") and spec[0] == "INT")
    if controlled and saved and saved[0] in CONTROL_VALUES:
        saved.pop(0)
        if input_type(spec) == "COMBO" and saved and saved[0] in ("", None):
            saved.pop(0)  # the filter of a combo that changes after each run
    uploads = any(key.endswith("_upload") and value for key, value in options.items())
    if uploads and saved and saved[0] in ("image", "video", "audio"):
        saved.pop(0)  # the upload button


def _as_constant(value: Any) -> Any:
    """A list as a value would be taken for a link: the server unwraps this form."""
    return {"__value__": value} if isinstance(value, list) else value


def _name(node: Mapping[str, Any]) -> str:
    return f'"{node.get("title") or node["type"]}" ({node["id"]})'
