"""Workflow files that are damaged or are something else: one sentence each, exit code 2, before any ComfyUI starts."""

import copy
import json

import pytest

from regionstyle.nodes.app.cli import main as cli
from regionstyle.nodes.app.workflow.workflow import to_api_form
from regionstyle.nodes.engine.errors import RegionStyleError

NODE = {"id": 1, "type": "Load", "inputs": [], "outputs": [{"name": "IMAGE", "type": "IMAGE"}], "widgets_values": []}
SAVE = {"id": 2, "type": "Save", "inputs": [{"name": "images", "type": "IMAGE", "link": 5}], "outputs": []}
UI = {"nodes": [NODE, SAVE], "links": [[5, 1, 0, 2, 0, "IMAGE"]], "version": 0.4}
API = {
    "1": {"class_type": "Load", "inputs": {}},
    "2": {"class_type": "Save", "inputs": {"images": ["1", 0]}},
}
SUBGRAPH = {"id": "sub", "nodes": [], "links": [], "inputs": [], "outputs": []}


def ui(**changes):
    return {**UI, **changes}


def first(**changes):
    """The UI form with a changed first node."""
    return ui(nodes=[{**NODE, **changes}, SAVE])


def subgraph(**changes):
    return ui(definitions={"subgraphs": [{**SUBGRAPH, **changes}]})


MALFORMED = {
    "empty file": ("", "not a JSON file"),
    "not JSON": ("nodes: []", "not a JSON file"),
    "cut off": (json.dumps(UI)[:40], "not a JSON file"),
    "not UTF-8": (b'{"nodes": "\xff"}', "not a JSON file"),
    "nested without end": ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
    "a list at the top": ([UI], "not a ComfyUI workflow"),
    "a number at the top": (7, "not a ComfyUI workflow"),
    "null": (None, "not a ComfyUI workflow"),
    "nothing in it": ({}, "not a ComfyUI workflow"),
    "something else": ({"a": 1}, "'a' in it is no node"),
    "nodes are null": (ui(nodes=None), 'no list "nodes"'),
    "nodes are an object": (ui(nodes={"1": NODE}), 'no list "nodes"'),
    "a node is null": (ui(nodes=[NODE, None]), "node 2 of its list is no object"),
    "a node has no id": (ui(nodes=[{"type": "Load"}]), "node 1 of its list has no id"),
    "an id is a list": (first(id=[1]), "has no id"),
    "a node has no type": (first(type=None), "has no type"),
    "two nodes of one id": (first(id=2), "two nodes with the id 2"),
    "a mode is text": (first(mode="muted"), "mode that is no number"),
    "values are a number": (first(widgets_values=3), "widgets_values that are no list"),
    "inputs are an object": (first(inputs={"a": 1}), '"inputs" that is no list'),
    "an input has no name": (first(inputs=[{"link": 5}]), "has no name"),
    "an input's link is a list": (first(inputs=[{"name": "a", "link": [5]}]), "link that is no number"),
    "an output is null": (first(outputs=[None]), "outputs that are no objects"),
    "properties are a list": (first(properties=[1]), '"properties" that is no object'),
    "proxy widgets are text": (first(properties={"proxyWidgets": ["seed"]}), "proxyWidgets"),
    "a group node": (first(type="workflow>mine"), "group node"),
    "a title is a number": (first(title=3), "title that is no text"),
    "links are text": (ui(links="none"), '"links" that is no list'),
    "a link is too short": (ui(links=[[5, 1, 0]]), "link 1 of its list"),
    "a link is null": (ui(links=[None]), "link 1 of its list"),
    "a slot is text": (ui(links=[[5, 1, "a", 2, 0, "IMAGE"]]), "link 1 of its list"),
    "definitions are a list": (ui(definitions=[1]), '"definitions" that is no object'),
    "subgraphs are an object": (ui(definitions={"subgraphs": {}}), '"subgraphs" that is no list'),
    "a subgraph is null": (ui(definitions={"subgraphs": [None]}), "subgraph 1 is no object"),
    "a subgraph has no id": (subgraph(id=None), "subgraph 1 has no id"),
    "a subgraph has no nodes": (subgraph(nodes=None), "subgraph 1 has no list"),
    "a subgraph's input has no name": (subgraph(inputs=[{}]), "subgraph 1: one of its inputs"),
    "API: a class is a number": ({"1": {"class_type": 3}}, "'1' in it is no node"),
    "API: a node is null": ({**API, "3": None}, "'3' in it is no node"),
    "API: inputs are a list": ({"1": {"class_type": "Load", "inputs": [1]}}, '"inputs" that is no object'),
    "API: a link to nothing": ({"2": API["2"]}, "from node 1, which is not there"),
    "API: a circle": ({"1": {"class_type": "Load", "inputs": {"a": ["2", 0]}}, "2": API["2"]}, "wait for each other"),
    "API: a node that waits for itself": ({"1": {"class_type": "Load", "inputs": {"a": ["1", 0]}}}, "1 <- 1"),
    "API: meta is text": ({"1": {"class_type": "Load", "inputs": {}, "_meta": "x"}}, '"_meta" that is no object'),
}  # fmt: skip


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_files_get_one_sentence(tmp_path, capsys, kind):
    content, words = MALFORMED[kind]
    file = tmp_path / "w.json"
    data = content if isinstance(content, bytes) else content if isinstance(content, str) else json.dumps(content)
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    assert cli.main(["run", str(file), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]
    assert str(file) in lines[0]
    assert "unexpected" not in lines[0]
    assert not (tmp_path / "out").exists()


DEFINITIONS = {
    "Load": {"input": {"required": {}}},
    "Save": {"input": {"required": {"images": ["IMAGE"]}}},
    "Both": {"input": {"required": {"image": ["IMAGE"]}}},
}


def reroute(number, link):
    return {"id": number, "type": "Reroute", "inputs": [{"name": "", "link": link}], "outputs": [{"type": "*"}]}


def both(number, link):
    return {"id": number, "type": "Both", "inputs": [{"name": "image", "link": link}]}


LINKS_TO_NOTHING = {
    "a link that is not there": (ui(links=[]), "has link 5, which the workflow does not have"),
    "a node that is not there": (ui(links=[[5, 9, 0, 2, 0, "IMAGE"]]), "link from node 9"),
    "reroutes in a circle": (
        ui(nodes=[SAVE, reroute(3, 7), reroute(4, 8)],
           links=[[5, 3, 0, 2, 0, "*"], [7, 4, 0, 3, 0, "*"], [8, 3, 0, 4, 0, "*"]]),
        "links form a circle",
    ),
    "nodes in a circle": (
        ui(nodes=[both(2, 5), both(3, 6)],
           links=[[5, 3, 0, 2, 0, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"]]),
        "wait for each other: 2 <- 3 <- 2",
    ),
    "an unknown node": (first(type="Unheard"), "has no node Unheard"),
}  # fmt: skip


@pytest.mark.parametrize("kind", LINKS_TO_NOTHING)
def test_links_that_lead_nowhere_get_one_sentence(kind):
    data, words = LINKS_TO_NOTHING[kind]
    with pytest.raises(RegionStyleError, match=words):
        to_api_form(copy.deepcopy(data), DEFINITIONS)


@pytest.mark.parametrize("field", ["mode", "title", "flags", "properties", "widgets_values", "inputs", "outputs"])
def test_null_fields_are_as_if_they_were_not_there(field):
    assert to_api_form(first(**{field: None}), DEFINITIONS)["1"]["class_type"] == "Load"


def test_a_long_chain_of_nodes_is_no_circle():
    chain = {str(i): {"class_type": "Both", "inputs": {"image": [str(i - 1), 0]}} for i in range(1, 5000)}
    prompt = {"0": {"class_type": "Load", "inputs": {}}, **chain}
    assert len(to_api_form(prompt, DEFINITIONS)) == 5000


def test_a_long_chain_of_reroutes_is_followed():
    last = 5000
    nodes = [NODE, *(reroute(i, i) for i in range(10, last)), {**SAVE, "inputs": [{"name": "images", "link": last}]}]
    links = [[10, 1, 0, 10, 0, "*"], *([i, i - 1, 0, i, 0, "*"] for i in range(11, last + 1))]
    assert to_api_form(ui(nodes=nodes, links=links), DEFINITIONS)["2"]["inputs"]["images"] == ["1", 0]
