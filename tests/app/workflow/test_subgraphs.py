"""Workflows with subgraphs, converted as the browser does it when it queues them."""

import json

import pytest

from regionstyle.nodes.app.workflow import levels
from regionstyle.nodes.app.workflow.workflow import class_types, to_api_form
from regionstyle.nodes.engine.errors import RegionStyleError

SEED = ["INT", {"default": 0, "control_after_generate": True}]
DEFINITIONS = {
    "Load": {"input": {"required": {"file": ["STRING", {}]}}},
    "Paint": {"input": {"required": {"image": ["IMAGE"], "seed": SEED, "text": ["STRING", {"default": "none"}]}}},
    "Save": {"input": {"required": {"images": ["IMAGE"]}}},
    "Mask": {"input": {"required": {"image": ["IMAGE"]}}},
    "Choice": {
        "input": {
            "required": {
                "model": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "plain", "inputs": {"required": {"steps": ["INT", {"default": 9}]}}},
                            {"key": "large", "inputs": {"required": {"size": ["INT", {}], "tiled": ["BOOLEAN", {}]}}},
                        ]
                    },
                ],
                "images": ["COMFY_AUTOGROW_V3", {"template": {"input": {"required": {"image": ["IMAGE", {}]}}}}],
                "seed": SEED,
            }
        }
    },
    "CustomCombo": {"input": {"required": {"choice": ["COMBO", {"options": []}]}}},
    "Load3D": {"input": {"required": {"model_file": ["STRING", {}], "image": ["LOAD_3D", {}]}}},
}


def slot(name, link=None, kind="IMAGE", widget=False):
    return {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if widget else {})}


def node(number, kind, inputs=(), values=(), **more):
    outputs = [{"name": "IMAGE", "type": "IMAGE"}]
    return {
        "id": number,
        "type": kind,
        "inputs": list(inputs),
        "outputs": outputs,
        "widgets_values": list(values),
        **more,
    }


def links(*rows):
    """(id, from node, from slot, to node, to slot), as mappings, which subgraphs have."""
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    return [dict(zip(keys, row, strict=True)) for row in rows]


def painting(identity="paint", **changes):
    """A subgraph: its inputs image and seed lead to one Paint node (5); its output is that node's."""
    return {
        "id": identity,
        "nodes": [node(5, "Paint", [slot("image", 1), slot("seed", 2, "INT", widget=True)], [7, "fixed", "a cat"])],
        "links": links((1, -10, 0, 5, 0), (2, -10, 1, 5, 1), (3, 5, 0, -20, 0)),
        "inputs": [{"name": "image", "type": "IMAGE", "linkIds": [1]}, {"name": "seed", "type": "INT", "linkIds": [2]}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "linkIds": [3]}],
        **changes,
    }


def host(number=2, kind="paint", link=11, seed_link=None, **more):
    return node(number, kind, [slot("image", link), slot("seed", seed_link, "INT", widget=True)], **more)


def workflow(*nodes, subgraphs=(), more_links=()):
    around = [node(1, "Load", values=["a.png"]), node(3, "Save", [slot("images", 12)])]
    return {
        "nodes": [*around, *nodes],
        "links": [[11, 1, 0, 2, 0, "IMAGE"], [12, 2, 0, 3, 0, "IMAGE"], *more_links],
        "definitions": {"subgraphs": list(subgraphs) or [painting()]},
    }


def test_a_subgraph_becomes_its_nodes():
    data = workflow(host())
    assert class_types(data) == {"Load", "Paint", "Save"}
    prompt = to_api_form(data, DEFINITIONS)
    assert set(prompt) == {"1", "2:5", "3"}
    assert prompt["2:5"]["inputs"] == {"image": ["1", 0], "seed": 7, "text": "a cat"}
    assert prompt["3"]["inputs"] == {"images": ["2:5", 0]}


def test_a_promoted_widget_has_the_value_of_the_subgraphs_node():
    prompt = to_api_form(workflow(host(values=[42])), DEFINITIONS)
    assert prompt["2:5"]["inputs"]["seed"] == 42


def test_two_uses_of_a_subgraph_have_values_of_their_own():
    second = host(4, link=13, values=[2])
    data = workflow(host(values=[1]), second, more_links=[[13, 2, 0, 4, 0, "IMAGE"]])
    prompt = to_api_form(data, DEFINITIONS)
    assert [prompt[i]["inputs"]["seed"] for i in ("2:5", "4:5")] == [1, 2]
    assert prompt["4:5"]["inputs"]["image"] == ["2:5", 0]


def test_a_link_from_outside_goes_before_the_value():
    data = workflow(host(values=[42], seed_link=14), node(6, "Mask"), more_links=[[14, 6, 0, 2, 1, "INT"]])
    assert to_api_form(data, DEFINITIONS)["2:5"]["inputs"]["seed"] == ["6", 0]


def test_inputs_that_the_node_was_saved_without_still_count():
    """Values are saved for every promoted input of the subgraph, also where the node in the file lacks the input."""
    graph = painting()
    graph["inputs"].append({"name": "text", "type": "STRING", "linkIds": [4]})
    graph["nodes"][0]["inputs"].append(slot("text", 4, "STRING", widget=True))
    graph["links"] += links((4, -10, 2, 5, 2))
    data = workflow(node(2, "paint", [slot("image", 11)], [42, "a dog"]), subgraphs=[graph])
    assert to_api_form(data, DEFINITIONS)["2:5"]["inputs"] == {"image": ["1", 0], "seed": 42, "text": "a dog"}


@pytest.mark.parametrize(
    "listed", [[["5", "text"], ["-1", "seed"]], [["5", "text"], ["5", "seed"]], [[5, "5: text"], ["5", "seed"]]]
)
def test_proxy_widgets_of_older_front_ends(listed):
    """They name widgets inside, linked or not, and say which value is whose."""
    data = workflow(host(values=["a dog", 42], properties={"proxyWidgets": listed}))
    assert to_api_form(data, DEFINITIONS)["2:5"]["inputs"] == {"image": ["1", 0], "seed": 42, "text": "a dog"}


def test_proxy_widgets_without_values_leave_the_values_inside():
    data = workflow(host(properties={"proxyWidgets": [["5", "text"], ["5", "seed"]]}))
    assert to_api_form(data, DEFINITIONS)["2:5"]["inputs"] == {"image": ["1", 0], "seed": 7, "text": "a cat"}


def nested(**more):
    """A subgraph whose one node (8) is the painting subgraph."""
    return painting(
        "outer",
        nodes=[host(8, link=1, seed_link=2, **more)],
        links=links((1, -10, 0, 8, 0), (2, -10, 1, 8, 1), (3, 8, 0, -20, 0)),
    )


def test_nested_subgraphs():
    prompt = to_api_form(workflow(host(kind="outer", values=[42]), subgraphs=[nested(), painting()]), DEFINITIONS)
    assert set(prompt) == {"1", "2:8:5", "3"}
    assert prompt["2:8:5"]["inputs"] == {"image": ["1", 0], "seed": 42, "text": "a cat"}
    assert prompt["3"]["inputs"]["images"] == ["2:8:5", 0]


def test_a_value_reaches_a_widget_two_subgraphs_deep():
    inner = nested(properties={"proxyWidgets": [["5", "text"]]})
    outer = host(kind="outer", values=["a dog"], properties={"proxyWidgets": [["8", "text"]]})
    prompt = to_api_form(workflow(outer, subgraphs=[inner, painting()]), DEFINITIONS)
    assert prompt["2:8:5"]["inputs"]["text"] == "a dog"


@pytest.mark.parametrize(("mode", "arrives"), [(4, {"images": ["1", 0]}), (2, {})])
def test_bypassed_and_muted_subgraphs(mode, arrives):
    data = workflow(host(mode=mode))
    assert class_types(data) == {"Load", "Save"}
    prompt = to_api_form(data, DEFINITIONS)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == arrives


def test_bypassed_nodes_inside():
    graph = painting()
    graph["nodes"][0]["mode"] = 4
    prompt = to_api_form(workflow(host(), subgraphs=[graph]), DEFINITIONS)
    assert prompt["3"]["inputs"] == {"images": ["1", 0]}


def test_a_bypassed_node_passes_on_what_fits_best():
    """Its own position first, then the type that is wanted."""
    two = node(2, "Unheard", [slot("mask", 21, "MASK"), slot("image", 11), slot("other", 22)], mode=4)
    two["outputs"] = [{"type": "IMAGE"}]
    data = workflow(
        two, node(6, "Mask", [slot("image", 11)]), more_links=[[21, 6, 0, 2, 0, "MASK"], [22, 6, 0, 2, 2, "IMAGE"]]
    )
    assert to_api_form(data, DEFINITIONS)["3"]["inputs"]["images"] == ["1", 0]


def test_a_subgraph_that_only_passes_through():
    graph = painting(nodes=[], links=links((3, -10, 0, -20, 0)))
    assert to_api_form(workflow(host(), subgraphs=[graph]), DEFINITIONS)["3"]["inputs"] == {"images": ["1", 0]}


def test_primitives_and_reroutes_inside():
    graph = painting()
    primitive = node(6, "PrimitiveNode", values=[99, "fixed"])
    reroute = node(9, "Reroute", [slot("", 1)])
    graph["nodes"] += [primitive, reroute]
    graph["links"] = links((1, -10, 0, 9, 0), (4, 9, 0, 5, 0), (2, 6, 0, 5, 1), (3, 5, 0, -20, 0))
    graph["nodes"][0]["inputs"][0]["link"] = 4
    prompt = to_api_form(workflow(host(), subgraphs=[graph]), DEFINITIONS)
    assert prompt["2:5"]["inputs"] == {"image": ["1", 0], "seed": 99, "text": "a cat"}


def test_a_primitive_outside_does_not_reach_into_a_subgraph():
    """As in the browser, where the widget inside keeps its value."""
    data = workflow(
        host(values=[42], seed_link=14), node(6, "PrimitiveNode", values=[99]), more_links=[[14, 6, 0, 2, 1, "INT"]]
    )
    assert to_api_form(data, DEFINITIONS)["2:5"]["inputs"]["seed"] == 7


def test_ids_that_repeat_get_the_next_free_numbers():
    graph = painting()
    graph["nodes"][0]["id"] = 1  # as the outermost Load
    graph["links"] = links((1, -10, 0, 1, 0), (2, -10, 1, 1, 1), (3, 1, 0, -20, 0))
    data = workflow(host(values=["a dog"], properties={"proxyWidgets": [["1", "text"]]}), subgraphs=[graph])
    prompt = to_api_form({**data, "last_node_id": 20}, DEFINITIONS)
    assert set(prompt) == {"1", "2:21", "3"}
    assert prompt["2:21"]["inputs"]["text"] == "a dog"
    assert prompt["3"]["inputs"]["images"] == ["2:21", 0]


def test_a_subgraph_inside_itself_is_refused():
    graph = painting(nodes=[host(8, "paint")])
    with pytest.raises(RegionStyleError, match="contains itself"):
        to_api_form(workflow(host(), subgraphs=[graph]), DEFINITIONS)


def test_subgraphs_that_multiply_are_refused(monkeypatch):
    monkeypatch.setattr(levels, "MOST_NODES", 1000)
    names = [f"level {i}" for i in range(40)]
    graphs = [
        painting(name, nodes=[host(i, below) for i in (5, 6)]) for name, below in zip(names, names[1:], strict=False)
    ]
    with pytest.raises(RegionStyleError, match="more than 1000 nodes"):
        to_api_form(workflow(host(kind=names[0]), subgraphs=[*graphs, painting(names[-1])]), DEFINITIONS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["large", 64, True, 5, "fixed"], {"model": "large", "model.size": 64, "model.tiled": True, "seed": 5}),
        (["plain", 3, 5, "randomize"], {"model": "plain", "model.steps": 3, "seed": 5}),
        ([], {"model": "plain", "model.steps": 9, "seed": 0}),
    ],
)
def test_changing_combos_bring_their_own_inputs(values, expected):
    choice = node(2, "Choice", [slot("images.image0", 11), slot("images.image1")], values)
    prompt = to_api_form(workflow(choice), DEFINITIONS)
    assert prompt["2"]["inputs"] == {**expected, "images.image0": ["1", 0]}


def test_named_values_go_before_positions():
    named = {"model": "large", "model.size": 8, "seed": 6}
    choice = node(2, "Choice", [], ["plain", 3, 5, "fixed"], widgets_values_named=named)
    inputs = to_api_form(workflow(choice), DEFINITIONS)["2"]["inputs"]
    assert {name: inputs[name] for name in named} == named


def test_custom_combo_sends_what_the_front_end_adds_to_it():
    combo = node(2, "CustomCombo", [], ["b", 1, "a", "b", ""])
    assert to_api_form(workflow(combo), DEFINITIONS)["2"]["inputs"] == {
        "choice": "b", "index": 1, "option1": "a", "option2": "b", "option3": ""
    }  # fmt: skip


def test_what_the_browser_makes_is_named():
    with pytest.raises(RegionStyleError, match=r'"Load3D" \(2\): its input image \(LOAD_3D\) is made in the browser'):
        to_api_form(workflow(node(2, "Load3D", [], ["a.glb", ""])), DEFINITIONS)


def test_the_file_is_not_changed():
    data = workflow(host(kind="outer", values=[42]), subgraphs=[nested(), painting()])
    before = json.dumps(data)
    to_api_form(data, DEFINITIONS)
    assert json.dumps(data) == before
