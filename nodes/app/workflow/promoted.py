"""Widgets of subgraphs: the values that a subgraph's node shows for widgets of the nodes inside it.

The rules are those of ComfyUI's front end 1.49 (`SubgraphNode` and its migration of `proxyWidgets`). A subgraph's input
that leads to widgets shows a value of its own, which is saved with the subgraph's node: by position among these inputs,
or, in files of older front ends, by position in the property `proxyWidgets`, a list of [node id, widget name]. What
such a list names without a link is a value for that widget inside this one use of the subgraph.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...engine.errors import RegionStyleError
from .levels import PRIMITIVE, Level, Node
from .widgets import input_specs, is_widget, node_name, widget_values

OWN_INPUT = "-1"  # the node id in proxyWidgets that means the subgraph's own input


@dataclass(frozen=True)
class Value:
    """A value that takes the place of a link."""

    value: Any


class Promoted:
    """The values of widgets, of plain nodes and of subgraphs; definitions: `/object_info`."""

    def __init__(self, definitions: Mapping[str, Any]):
        self._definitions = definitions
        self._overrides: dict[str, dict[tuple[str, str], Any]] = {}

    def definition(self, node: Node) -> Mapping[str, Any]:
        """RegionStyleError, which says what to do, for a node that ComfyUI does not have."""
        definition: Mapping[str, Any] | None = self._definitions.get(node["type"])
        if definition is None:
            raise RegionStyleError(
                f"node {node_name(node)}: this ComfyUI has no node {node['type']}. Install its pack."
            )
        return definition

    def widgets(self, level: Level, node: Node) -> dict[str, Any]:
        """The widget values of a plain node in this use of its graph."""
        values = widget_values(node, self.definition(node))
        changed = {name: v for (node_id, name), v in self.overrides(level).items() if node_id == str(node["id"])}
        return {**values, **changed}

    def primitive(self, level: Level, node: Node) -> Value | None:
        """The value of a primitive node; None where it has none, so that the widget keeps its own."""
        node_id = str(node["id"])
        for (other, _), value in self.overrides(level).items():
            if other == node_id:
                return Value(value)
        saved = node.get("widgets_values")
        return Value(saved[0]) if isinstance(saved, list) and saved else None

    def value(self, level: Level, name: str) -> Value | None:
        """What the subgraph's node shows for the subgraph's input `name`; None where that leads to no widget."""
        shown = self._first_widget(level, name)
        if shown is None or level.host is None or level.outer is None:
            return None
        given = self.overrides(level.outer).get((str(level.host["id"]), name))
        if given is None:
            given = self._saved(level, name, shown)
        return Value(given) if given is not None else self._own(level, *shown)

    def overrides(self, level: Level) -> dict[tuple[str, str], Any]:
        """(node id, widget) -> value, for what `proxyWidgets` names without a link; a subgraph's input is a widget."""
        if level.path not in self._overrides:
            linked = [self._first_widget(level, name) for name in level.input_names]
            known = {_key(found) for found in linked if found is not None}
            self._overrides[level.path] = {
                (node_id, name): value
                for node_id, name, value in self._proxies(level)
                if node_id != OWN_INPUT and (node_id, name) not in known and value is not None
            }
        return self._overrides[level.path]

    def _first_widget(self, level: Level, name: str) -> tuple[Node, str] | None:
        """The first node that a subgraph's input leads to a widget of, and the name of that widget (or inner input)."""
        for node, slot in level.targets(name):
            inner = level.inner.get(str(node["id"]))
            if inner is not None:
                if self._first_widget(inner, slot["name"]) is not None:
                    return node, slot["name"]
            elif slot.get("widget") or self._is_widget(node, slot["name"]):
                return node, slot["name"]
        return None

    def _is_widget(self, node: Node, name: str) -> bool:
        definition = self._definitions.get(node["type"])
        return definition is not None and any(n == name and is_widget(spec) for n, spec in input_specs(definition))

    def _saved(self, level: Level, name: str, shown: tuple[Node, str]) -> Any:
        """The value saved with the subgraph's node: by `proxyWidgets`, else by position; None for none."""
        for node_id, widget, value in self._proxies(level):
            if value is not None and ((node_id, widget) == _key(shown) or (node_id, widget) == (OWN_INPUT, name)):
                return value
        saved = (level.host or {}).get("widgets_values")
        if not isinstance(saved, list):
            return saved.get(name) if isinstance(saved, Mapping) else None
        shown_inputs = [n for n in level.input_names if self._first_widget(level, n)]
        position = shown_inputs.index(name) if name in shown_inputs else len(saved)
        return saved[position] if position < len(saved) else None

    def _own(self, level: Level, node: Node, widget: str) -> Value | None:
        """The value inside the subgraph, where its node has none."""
        node_id = str(node["id"])
        if node_id in level.inner:
            return self.value(level.inner[node_id], widget)
        if node["type"] == PRIMITIVE:
            return self.primitive(level, node)
        if node["type"] not in self._definitions:
            return None  # a muted or bypassed node, whose pack need not be there
        values = self.widgets(level, node)
        return Value(values[widget]) if widget in values else None

    def _proxies(self, level: Level) -> Iterator[tuple[str, str, Any]]:
        """(node id, widget, value or None) of `proxyWidgets`; a value from further outside goes first."""
        host = level.host
        if host is None or level.outer is None:
            return
        saved = host.get("widgets_values")
        outside = self.overrides(level.outer)
        for position, (node_id, name) in enumerate(_listed(host)):
            value = saved[position] if isinstance(saved, list) and position < len(saved) else None
            yield node_id, name, outside.get((str(host["id"]), name), value)


def _key(shown: tuple[Node, str]) -> tuple[str, str]:
    return str(shown[0]["id"]), shown[1]


def _listed(host: Node) -> list[tuple[str, str]]:
    """The entries of `proxyWidgets`; some files hold them as text, some write "5: seed" for the seed of node 5."""
    listed = (host.get("properties") or {}).get("proxyWidgets") or []
    if isinstance(listed, str):
        listed = json.loads(listed)
    return [(str(entry[0]), re.sub(r"^\s*(\d+\s*:\s*)+", "", str(entry[1]))) for entry in listed]
