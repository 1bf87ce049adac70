"""Node ids of subgraphs, made different from each other as ComfyUI's front end 1.49 does when it loads a workflow.

The same id may stand in the outermost graph and in subgraphs; the front end gives later ones the next free numbers, so
that what a server reports of node "7:30" is found in the browser again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Graph = Mapping[str, Any]
Ids = dict[str, int]  # id in the file -> new id


def with_different_ids(data: Graph) -> tuple[Graph, dict[str, Graph]]:
    """(the outermost graph, subgraph id -> subgraph) with new ids where they repeat; links and `proxyWidgets` too."""
    subgraphs = (data.get("definitions") or {}).get("subgraphs") or []
    used = {str(node["id"]) for node in data["nodes"]}
    last = max([int(data.get("last_node_id") or 0), *map(_number, used)])
    new_ids: dict[str, Ids] = {}
    for graph in subgraphs:
        ids = new_ids[graph["id"]] = {}
        for node in graph["nodes"]:
            name = str(node["id"])
            if name in used:
                last = ids[name] = next(i for i in range(last + 1, last + len(used) + 2) if str(i) not in used)
            last = max(last, _number(name))
            used.add(str(ids.get(name, name)))
    return _renumbered(data, {}, new_ids), {g["id"]: _renumbered(g, new_ids[g["id"]], new_ids) for g in subgraphs}


def _number(node_id: str) -> int:
    return int(node_id) if node_id.isdecimal() else 0


def _renumbered(graph: Graph, ids: Ids, of_subgraphs: Mapping[str, Ids]) -> Graph:
    nodes = [
        _with_proxies({**node, "id": ids.get(str(node["id"]), node["id"])}, of_subgraphs.get(node["type"]) or {})
        for node in graph["nodes"]
    ]
    return {**graph, "nodes": nodes, "links": [_relinked(link, ids) for link in graph.get("links") or []]}


def _relinked(link: Any, ids: Ids) -> Any:
    if isinstance(link, Mapping):
        return {**link, **{key: ids.get(str(link[key]), link[key]) for key in ("origin_id", "target_id")}}
    return [ids.get(str(part), part) if place in (1, 3) else part for place, part in enumerate(link)]


def _with_proxies(node: dict[str, Any], inner: Ids) -> dict[str, Any]:
    """A subgraph's node whose list of inner widgets names the new ids."""
    listed = (node.get("properties") or {}).get("proxyWidgets")
    if not inner or not isinstance(listed, list):
        return node
    new = [[inner.get(str(entry[0]), entry[0]), *entry[1:]] for entry in listed]
    return {**node, "properties": {**node["properties"], "proxyWidgets": new}}
