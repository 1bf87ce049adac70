"""What a workflow file must look like before it is worked on; each fault is one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...engine.errors import RegionStyleError
from .levels import INPUT_NODE, OUTPUT_NODE

AGAIN = "Open and save it again in ComfyUI."


def is_ui_form(data: Mapping[str, Any]) -> bool:
    """Whether this is what the browser saves. A node of the API form may be called "nodes" but is no list."""
    return "nodes" in data and not (isinstance(data["nodes"], Mapping) and "class_type" in data["nodes"])


def check_ui_form(data: Mapping[str, Any]) -> None:
    """RegionStyleError for the first part of a file in UI form that is not what it must be."""
    definitions = _mapping(data, "definitions", "the workflow")
    subgraphs = _list(definitions, "subgraphs", "the workflow's definitions")
    _check_graph(data, "the workflow")
    _require(_is_whole(data.get("last_node_id") or 0), "the workflow", "has a last_node_id that is no whole number")
    for number, graph in enumerate(subgraphs):
        where = f"subgraph {number + 1}"
        _require(isinstance(graph, Mapping), where, "is no object")
        _require(isinstance(graph.get("id"), str), where, "has no id")
        _check_graph(graph, where)
        for key in ("inputs", "outputs"):
            for slot in _list(graph, key, where):
                _check_slot(slot, f"{where}: one of its {key}")


def _check_graph(graph: Mapping[str, Any], where: str) -> None:
    _require(isinstance(graph.get("nodes"), list), where, 'has no list "nodes"')
    seen = {INPUT_NODE, OUTPUT_NODE}
    for number, node in enumerate(graph["nodes"]):
        _check_node(node, f"{where}, node {number + 1} of its list")
        _require(str(node["id"]) not in seen, where, f"has two nodes with the id {node['id']}")
        seen.add(str(node["id"]))
    for number, link in enumerate(_list(graph, "links", where)):
        _check_link(link, f"{where}, link {number + 1} of its list")


def _check_node(node: Any, where: str) -> None:
    _require(isinstance(node, Mapping), where, "is no object")
    _require(_is_id(node.get("id")), where, "has no id, which is a number or text")
    _require(isinstance(node.get("type"), str), where, "has no type, which is text")
    where = f"node {node['type']} ({node['id']})"
    _require(not node["type"].startswith(("workflow/", "workflow>")), where, *GROUP_NODE)
    _require(isinstance(node.get("title"), str | None), where, "has a title that is no text")
    _require(_is_whole(node.get("mode") or 0), where, "has a mode that is no number")
    _require(
        isinstance(node.get("widgets_values"), list | Mapping | None), where, "has widgets_values that are no list"
    )
    for key in ("inputs", "outputs"):
        for slot in _list(node, key, where):
            _require(isinstance(slot, Mapping), where, f"has {key} that are no objects")
            if key == "inputs":
                _check_slot(slot, f"{where}: one of its {key}")
    for entry in _proxies(_mapping(node, "properties", where)):
        pair = isinstance(entry, list) and len(entry) >= 2 and all(_is_id(part) for part in entry[:2])
        _require(pair, where, "has proxyWidgets that are no pairs of a node and a widget")


GROUP_NODE = "is a group node of an old kind, which is not read here", "In ComfyUI, convert it to nodes or a subgraph."


def _proxies(properties: Mapping[str, Any]) -> list[Any]:
    listed = properties.get("proxyWidgets") or []
    return listed if isinstance(listed, list) else [listed]


def _check_slot(slot: Any, where: str) -> None:
    _require(isinstance(slot, Mapping) and isinstance(slot.get("name"), str), where, "has no name")
    link = slot.get("link")
    _require(link is None or _is_id(link), where, "has a link that is no number")
    _require(isinstance(slot.get("type"), str | int | None), where, "has a type that is no text")
    _require(isinstance(slot.get("linkIds"), list | None), where, "has linkIds that are no list")


def _check_link(link: Any, where: str) -> None:
    if isinstance(link, Mapping):
        link = [link.get(key) for key in ("id", "origin_id", "origin_slot", "target_id", "target_slot")]
    ends = isinstance(link, list) and len(link) >= 5 and all(_is_id(link[i]) for i in (0, 1, 3))
    _require(ends and _is_whole(link[2]) and _is_whole(link[4]), where, "is no link from an output to an input")


def check_api_form(data: Mapping[str, Any]) -> None:
    """RegionStyleError for the first part of a file in API form that is not what it must be."""
    for node_id, node in data.items():
        if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
            raise RegionStyleError(
                f"not a ComfyUI workflow, since {node_id!r} in it is no node. Save it from ComfyUI, or Export (API)."
            )
        where = f"node {node_id}"
        for name, value in _mapping(node, "inputs", where).items():
            if is_link(value) and value[0] not in data:
                _require(False, where, f'has a link to its input "{name}" from node {value[0]}, which is not there')
        title = _mapping(node, "_meta", where).get("title")
        _require(isinstance(title, str | None), where, "has a title that is no text")
    check_circles({node_id: {"inputs": node.get("inputs") or {}} for node_id, node in data.items()})


def is_link(value: Any) -> bool:
    """[node id, number of its output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_whole(value[1])


def check_circles(prompt: Mapping[str, Any]) -> None:
    """RegionStyleError for nodes of an API form that wait for each other."""
    finished: set[str] = set()
    for first in prompt:
        path: dict[str, Iterator[str]] = {} if first in finished else {first: _sources(prompt, first)}
        while path:
            node_id = next(reversed(path))
            source = next((s for s in path[node_id] if s not in finished), None)
            if source is None:
                finished.add(node_id)
                path.pop(node_id)
            elif source in path:
                circle = [*list(path)[list(path).index(source) :], source]
                shown = " <- ".join(circle if len(circle) < 9 else [*circle[:4], "...", *circle[-3:]])
                raise RegionStyleError(
                    f"the workflow's nodes wait for each other: {shown}. Take out one of these links."
                )
            else:
                path[source] = _sources(prompt, source)


def _sources(prompt: Mapping[str, Any], node_id: str) -> Iterator[str]:
    return (value[0] for value in prompt[node_id]["inputs"].values() if is_link(value) and value[0] in prompt)


def _mapping(data: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = data.get(key)
    _require(isinstance(value, Mapping | None), where, f'has "{key}" that is no object')
    return value or {}


def _list(data: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = data.get(key)
    _require(isinstance(value, list | None), where, f'has "{key}" that is no list')
    return value or []


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or _is_whole(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, where: str, fault: str, remedy: str = AGAIN) -> None:
    if not holds:
        raise RegionStyleError(f"{where} {fault}. {remedy}")
