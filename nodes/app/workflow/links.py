"""What arrives at an input of a workflow in UI form, through reroutes, bypassed nodes and subgraphs.

The rules are those of ComfyUI's front end 1.49 (`ExecutableNodeDTO.resolveInput` and `resolveOutput`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...engine.errors import RegionStyleError
from .levels import BYPASSED, INPUT_NODE, MUTED, NOTES, PRIMITIVE, REROUTE, Level, Link, Node, mode_of
from .promoted import Promoted, Value
from .widgets import node_name

Source = list[Any] | Value | None  # [node id, slot], a value instead of a link, or nothing


@dataclass(frozen=True)
class _Input:
    """An input slot of a node."""

    level: Level
    node: Node
    slot: Mapping[str, Any]


@dataclass(frozen=True)
class _Output:
    """The origin of a link; kind: the type that is wanted of it."""

    level: Level
    link: Link
    kind: Any


def source_of(level: Level, node: Node, slot: Mapping[str, Any], promoted: Promoted) -> Source:
    """What arrives at an input slot of a node. RegionStyleError for links from nothing and for links in a circle."""
    seen: set[tuple[str, str, int]] = set()
    place: _Input | _Output | Source = _Input(level, node, slot)
    while isinstance(place, _Input | _Output):
        if isinstance(place, _Input):
            key = (place.level.path, str(place.node["id"]), id(place.slot))
            if key in seen:
                raise RegionStyleError(f"node {node_name(place.node)}: its links form a circle. Take one of them out.")
            seen.add(key)
            place = _behind_input(place)
        else:
            place = _at_output(place, level, promoted)
    return place


def _behind_input(place: _Input) -> _Output | None:
    link_id = place.slot.get("link")
    if link_id is None:
        return None
    link = place.level.links.get(link_id)
    if link is None:
        raise RegionStyleError(
            f'node {node_name(place.node)}: its input "{place.slot["name"]}" has link {link_id}, which the workflow '
            "does not have. Connect it again in ComfyUI and save."
        )
    return _Output(place.level, link, place.slot.get("type"))


def _at_output(place: _Output, start: Level, promoted: Promoted) -> _Input | _Output | Source:
    level, link = place.level, place.link
    if link.origin == INPUT_NODE and level.host is not None:
        return _outside(level, link.slot, promoted)
    node = level.nodes.get(link.origin)
    if node is None:
        raise RegionStyleError(
            f"the workflow has a link from node {link.origin}, which it does not have. Connect it again in ComfyUI."
        )
    if node["type"] == PRIMITIVE:
        # The front end sets the widgets that a primitive is linked to in its own graph, and none in subgraphs.
        return promoted.primitive(level, node) if level is start else None
    if node["type"] in NOTES or mode_of(node) == MUTED:
        return None
    slots = node.get("inputs") or []
    if mode_of(node) == BYPASSED:
        return _bypassed(place, node, slots)
    if node["type"] == REROUTE:
        return _Input(level, node, slots[0]) if slots else None
    if link.origin in level.inner:
        inner = level.inner[link.origin]
        arriving = inner.output_link(link.slot)
        return None if arriving is None else _Output(inner, arriving, place.kind)
    return [level.path + link.origin, link.slot]


def _outside(level: Level, number: int, promoted: Promoted) -> _Input | Source:
    """What arrives at a subgraph's own input: over a link from outside, or the value that its node shows for it."""
    names = level.input_names
    if level.outer is None or level.host is None or not 0 <= number < len(names):
        raise RegionStyleError(
            f"node {node_name(level.host or {})}: the subgraph has a link from input {number}, which it does not have. "
            "Open and save it again in ComfyUI."
        )
    slot = level.host_slot(names[number])
    if slot is not None and slot.get("link") is not None:
        return _Input(level.outer, level.host, slot)
    return promoted.value(level, names[number])


def _bypassed(place: _Output, node: Node, slots: list[Mapping[str, Any]]) -> _Input | None:
    """The input that stands for an output of a bypassed node: one of a fitting type, its own position before others."""
    outputs = node.get("outputs") or []
    made = outputs[place.link.slot].get("type") if place.link.slot < len(outputs) else "*"
    same = slots[place.link.slot : place.link.slot + 1]
    if place.kind in ("*", "", None):
        chosen = [*same, *slots[:1]]
    else:
        fits = [slot for slot in slots if _fit(slot.get("type"), made) and _fit(slot.get("type"), place.kind)]
        chosen = [*(s for s in same if s in fits), *(s for s in slots if s.get("type") == place.kind), *fits]
    return _Input(place.level, node, chosen[0]) if chosen else None


def _fit(one: Any, other: Any) -> bool:
    """Whether LiteGraph lets two types be connected: equal in any case, one of a list, or either of them anything."""
    if one in ("*", "", 0, None) or other in ("*", "", 0, None):
        return True
    return bool(set(str(one).lower().split(",")) & set(str(other).lower().split(",")))
