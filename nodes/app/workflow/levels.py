"""The graphs of a workflow in UI form: the outermost one, and one for every use of a subgraph inside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...engine.errors import RegionStyleError
from .subgraph_ids import with_different_ids
from .widgets import node_name

# Modes of a node (LiteGraph's numbers).
MUTED, BYPASSED = 2, 4
# Nodes that exist in the browser only.
NOTES = frozenset({"Note", "MarkdownNote"})
REROUTE, PRIMITIVE = "Reroute", "PrimitiveNode"
# What stands for a subgraph's own inputs and outputs among the nodes of its links.
INPUT_NODE, OUTPUT_NODE = "-10", "-20"
MOST_NODES = 50_000  # subgraphs in subgraphs can multiply without end

Node = Mapping[str, Any]


@dataclass(frozen=True)
class Link:
    """Where a link comes from: a node of the same graph, or the graph's own inputs; and where it goes."""

    origin: str
    slot: int
    target: str = ""
    target_slot: int = 0


@dataclass(eq=False)
class Level:
    """The outermost graph, or one use of a subgraph: its nodes and links, and the node that it stands for.

    path: what comes before the id of a node here in the API form, "7:3:" for node 3 of subgraph node 7 in the graph.
    """

    data: Mapping[str, Any]
    path: str = ""
    outer: Level | None = None
    host: Node | None = None
    nodes: dict[str, Node] = field(init=False)
    links: dict[Any, Link] = field(init=False)
    inner: dict[str, Level] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.nodes = {str(node["id"]): node for node in self.data["nodes"]}
        self.links = dict(_read_link(link) for link in self.data.get("links") or [])

    @property
    def input_names(self) -> list[str]:
        """The names of a subgraph's own inputs, in order."""
        return [slot["name"] for slot in self.data.get("inputs") or []]

    def host_slot(self, name: str) -> Mapping[str, Any] | None:
        """The input slot of the subgraph's node that has this name."""
        slots = (self.host or {}).get("inputs") or []
        return next((slot for slot in slots if slot["name"] == name), None)

    def output_link(self, slot: int) -> Link | None:
        """What arrives at a subgraph's own output."""
        return next(
            (link for link in self.links.values() if link.target == OUTPUT_NODE and link.target_slot == slot), None
        )

    def targets(self, name: str) -> Iterator[tuple[Node, Mapping[str, Any]]]:
        """The nodes, each with its input slot, that a subgraph's own input leads to; in the order of its links."""
        inputs = self.data.get("inputs") or []
        number = next((i for i, slot in enumerate(inputs) if slot["name"] == name), -1)
        mine = [i for i, link in self.links.items() if link.origin == INPUT_NODE and link.slot == number]
        order = {link: position for position, link in enumerate(inputs[number].get("linkIds") or [])} if mine else {}
        for link_id in sorted(mine, key=lambda i: order.get(i, len(order))):
            node = self.nodes.get(self.links[link_id].target)
            for slot in (node or {}).get("inputs") or []:
                if node is not None and slot.get("link") == link_id:
                    yield node, slot


def _read_link(link: Any) -> tuple[Any, Link]:
    """link id -> Link; links are lists in format 0.4 and mappings in format 1 and in subgraphs."""
    if isinstance(link, Mapping):
        names = ("origin_id", "origin_slot", "target_id", "target_slot")
        number, ends = link["id"], [link[name] for name in names]
    else:
        number, *ends = link[:5]
    return number, Link(str(ends[0]), int(ends[1]), str(ends[2]), int(ends[3]))


def mode_of(node: Node) -> int:
    return int(node.get("mode") or 0)


def is_active(node: Node) -> bool:
    return mode_of(node) not in (MUTED, BYPASSED)


def is_virtual(node: Node) -> bool:
    """A node that the browser keeps for itself."""
    return node["type"] in NOTES or node["type"] in (REROUTE, PRIMITIVE)


def expand(data: Mapping[str, Any]) -> list[Level]:
    """The outermost graph and every use of a subgraph in it that is neither muted nor bypassed, the outer ones first.

    RegionStyleError for a subgraph inside itself, and for more than MOST_NODES nodes.
    """
    outermost, graphs = with_different_ids(data)
    levels, count = [Level(outermost)], len(data["nodes"])
    for level in levels:  # grows on the way
        for node_id, node in level.nodes.items():
            if node["type"] in graphs and is_active(node):
                _check_nesting(level, node)
                inner = Level(graphs[node["type"]], f"{level.path}{node_id}:", level, node)
                level.inner[node_id] = inner
                levels.append(inner)
                count += len(inner.nodes)
                if count > MOST_NODES:
                    raise RegionStyleError(
                        f"the workflow's subgraphs come to more than {MOST_NODES} nodes. Simplify it."
                    )
    return levels


def _check_nesting(level: Level | None, node: Node) -> None:
    while level is not None:
        if level.host is not None and level.host["type"] == node["type"]:
            raise RegionStyleError(f"node {node_name(node)}: this subgraph contains itself. Take it out of itself.")
        level = level.outer


def executed(level: Level) -> Iterator[tuple[str, Node]]:
    """(id in the API form, node) of the nodes of one level that ComfyUI is given."""
    for node_id, node in level.nodes.items():
        if is_active(node) and not is_virtual(node) and node_id not in level.inner:
            yield level.path + node_id, node
