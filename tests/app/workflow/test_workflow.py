"""Workflows in both forms, and the changes that the command line makes to them."""

import json

import pytest
from workflow_files import SHEETS, WORKFLOWS, api_name

from regionstyle.nodes.app.comfyui import errors as comfy_errors
from regionstyle.nodes.app.workflow.workflow import class_types, read_workflow, to_api_form
from regionstyle.nodes.app.workflow.workflow_edit import set_input_file, set_value
from regionstyle.nodes.engine.errors import RegionStyleError

DEFINITIONS = {
    "LoadImage": {
        "input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}},
        "input_order": {"required": ["image"]},
        "display_name": "Load Image",
    },
    "Sampler": {
        "input": {
            # As after a round trip through a program that sorts keys: input_order says the true order.
            "required": {
                "cfg": ["FLOAT", {"default": 7.0}],
                "image": ["IMAGE"],
                "method": ["COMBO", {"options": ["euler", "fixed"]}],
                "seed": ["INT", {"default": 0}],
                "text": ["STRING", {"multiline": True}],
            },
            "optional": {"tiled": ["BOOLEAN", {"default": False}], "forced": ["FLOAT", {"forceInput": True}]},
        },
        "input_order": {"required": ["image", "seed", "method", "cfg", "text"], "optional": ["tiled", "forced"]},
    },
    "Save": {"input": {"required": {"images": ["IMAGE"], "prefix": ["STRING", {"default": "out"}]}}},
}


def node(number, kind, values=(), inputs=(), outputs=("IMAGE",), **more):
    slots = [{"name": name, "type": "IMAGE", "link": link} for name, link in inputs]
    return {
        "id": number, "type": kind, "widgets_values": list(values), "inputs": slots,
        "outputs": [{"type": kind} for kind in outputs], "mode": 0, **more,
    }  # fmt: skip


def graph(nodes, links):
    """links: (id, from node, from slot, to node, to slot)."""
    return {"nodes": nodes, "links": [[*link, "IMAGE"] for link in links], "version": 0.4}


def simple(middle=None):
    middle = middle or node(2, "Sampler", [9, "randomize", "fixed", 4.5, "a cat", True], [("image", 1)])
    return graph(
        [node(1, "LoadImage", ["a.png", "image"]), middle, node(3, "Save", ["x"], [("images", 2)])],
        [(1, 1, 0, 2, 0), (2, 2, 0, 3, 0)],
    )


def test_values_get_their_names():
    prompt = to_api_form(simple(), DEFINITIONS)
    assert prompt["1"] == {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Load Image"}}
    assert prompt["2"]["inputs"] == {
        "image": ["1", 0], "seed": 9, "method": "fixed", "cfg": 4.5, "text": "a cat", "tiled": True
    }  # fmt: skip
    assert prompt["3"]["inputs"] == {"images": ["2", 0], "prefix": "x"}


def test_a_value_without_its_control_is_not_mistaken():
    """Files written by programs may lack the control widget behind the seed; a combo may list the same word."""
    middle = node(2, "Sampler", [9, "euler", 4.5, "a cat", True], [("image", 1)])
    assert to_api_form(simple(middle), DEFINITIONS)["2"]["inputs"]["method"] == "euler"


def test_values_that_an_older_node_did_not_have_are_defaults():
    middle = node(2, "Sampler", [9, "fixed", "euler", 4.5, "a cat"], [("image", 1)])
    assert to_api_form(simple(middle), DEFINITIONS)["2"]["inputs"]["tiled"] is False


def test_values_of_another_version_of_the_node_are_refused():
    middle = node(2, "Sampler", [9, "fixed", "euler", 4.5, "a cat", True, 1, 2], [("image", 1)], title="Mine")
    with pytest.raises(RegionStyleError, match=r'"Mine" \(2\).*2 values more'):
        to_api_form(simple(middle), DEFINITIONS)


def test_values_saved_with_names():
    middle = node(2, "Sampler", (), [("image", 1)])
    middle["widgets_values"] = {"seed": 3, "text": "t", "preview": 1}
    assert to_api_form(simple(middle), DEFINITIONS)["2"]["inputs"] == {"image": ["1", 0], "seed": 3, "text": "t"}


def test_a_link_replaces_the_value_of_its_widget():
    data = simple()
    data["nodes"][1]["inputs"].append({"name": "cfg", "type": "FLOAT", "link": 7, "widget": {"name": "cfg"}})
    data["nodes"].append(node(9, "PrimitiveNode", [2.5, "fixed"], outputs=("FLOAT",)))
    data["links"].append([7, 9, 0, 2, 1, "FLOAT"])
    prompt = to_api_form(data, DEFINITIONS)
    assert prompt["2"]["inputs"]["cfg"] == 2.5
    assert "9" not in prompt


def test_reroutes_and_notes_disappear():
    data = simple()
    data["nodes"] += [node(5, "Reroute", (), [("", 2)]), node(6, "Note", ["read me"])]
    data["links"] += [[8, 5, 0, 3, 0, "IMAGE"]]
    data["nodes"][2]["inputs"][0]["link"] = 8
    prompt = to_api_form(data, DEFINITIONS)
    assert prompt["3"]["inputs"]["images"] == ["2", 0]
    assert set(prompt) == {"1", "2", "3"}


def test_a_bypassed_node_passes_its_input_on():
    data = simple()
    data["nodes"][1]["mode"] = 4
    prompt = to_api_form(data, DEFINITIONS)
    assert prompt["3"]["inputs"]["images"] == ["1", 0]
    assert "2" not in prompt


def test_a_muted_node_sends_nothing():
    data = simple()
    data["nodes"][1]["mode"] = 2
    assert "images" not in to_api_form(data, DEFINITIONS)["3"]["inputs"]
    assert "Sampler" not in class_types(data)


def test_links_as_objects():
    data = simple()
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    data["links"] = [dict(zip(keys, link, strict=True)) for link in data["links"]]
    assert to_api_form(data, DEFINITIONS)["3"]["inputs"]["images"] == ["2", 0]


def test_a_list_is_not_taken_for_a_link():
    data = simple()
    data["nodes"][2]["widgets_values"] = [["1", 0]]
    assert to_api_form(data, DEFINITIONS)["3"]["inputs"]["prefix"] == {"__value__": ["1", 0]}


def test_changing_inputs_of_an_unknown_kind_are_refused():
    dynamic = {**DEFINITIONS, "Save": {"input": {"required": {"many": ["COMFY_DYNAMICSLOT_V3", {}]}}}}
    with pytest.raises(RegionStyleError, match="many"):
        to_api_form(simple(), dynamic)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"a": 1}', '{"nodes": 3}'])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "w.json"
    file.write_text(text)
    with pytest.raises(RegionStyleError, match="w.json"):
        read_workflow(file)


def test_the_body_of_a_request_is_a_workflow_too(tmp_path):
    prompt = {"1": {"class_type": "Save", "inputs": {}}}
    file = tmp_path / "w.json"
    file.write_text(json.dumps({"prompt": prompt, "client_id": "x"}))
    assert read_workflow(file) == prompt


@pytest.fixture
def prompt():
    return to_api_form(simple(), DEFINITIONS)


@pytest.mark.parametrize("name", ["1", "Load Image", "load image", "a.png"])
def test_an_input_is_found_by_id_title_or_file(prompt, tmp_path, name):
    file = tmp_path / "mine.png"
    file.touch()
    set_input_file(prompt, DEFINITIONS, name, file, lambda path: f"sent/{path.name}")
    assert prompt["1"]["inputs"]["image"] == "sent/mine.png"


def test_an_input_is_found_by_its_file_in_a_folder(prompt, tmp_path):
    prompt["1"]["inputs"]["image"] = "pasted/b.png [input]"
    (tmp_path / "new.png").touch()
    set_input_file(prompt, DEFINITIONS, "b.png", tmp_path / "new.png", lambda path: path.name)
    assert prompt["1"]["inputs"]["image"] == "new.png"


@pytest.mark.parametrize("name", ["7", "Save", "c.png", "2"])
def test_an_input_that_is_no_load_node(prompt, tmp_path, name):
    file = tmp_path / "mine.png"
    file.touch()
    with pytest.raises(RegionStyleError, match=r'no node is called .* "Load Image" \(1\)'):
        set_input_file(prompt, DEFINITIONS, name, file, lambda path: path.name)


def test_an_input_file_that_is_missing(prompt, tmp_path):
    with pytest.raises(RegionStyleError, match="there is no file"):
        set_input_file(prompt, DEFINITIONS, "1", tmp_path / "none.png", lambda path: path.name)


@pytest.mark.parametrize(
    ("target", "text", "value"),
    [
        ("2.seed", "12", 12),
        ("Sampler.cfg", "3", 3.0),
        ("2.text", "make it = red.", "make it = red."),
        ("2.tiled", "No", False),
        ("2.tiled", "true", True),
        ("2.method", "fixed", "fixed"),
        ("1.image", "b.png", "b.png"),
    ],
)
def test_values_take_the_type_of_their_input(prompt, target, text, value):
    set_value(prompt, DEFINITIONS, target, text)
    changed = prompt["1" if target.startswith("1") else "2"]["inputs"][target.split(".")[1]]
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ("target", "text", "words"),
    [
        ("seed", "1", "NODE.INPUT"),
        ("8.seed", "1", "no node is called '8'"),
        ("2.sead", "1", "has no input 'sead'. It has: image, seed, method"),
        ("2.seed", "1.5", "not a whole number"),
        ("2.cfg", "much", "not a number"),
        ("2.tiled", "perhaps", "not true or false"),
        ("2.method", "dpm", "Choose one of: euler, fixed"),
        ("2.image", "x", "IMAGE from another node"),
    ],
)
def test_wrong_values_say_what_is_right(prompt, target, text, words):
    with pytest.raises(RegionStyleError, match=words.replace(".", r"\.")):
        set_value(prompt, DEFINITIONS, target, text)


def test_two_nodes_with_one_title(prompt):
    prompt["4"] = prompt["3"]
    with pytest.raises(RegionStyleError, match=r"several nodes.*\(3\).*\(4\)"):
        set_value(prompt, DEFINITIONS, "Save.prefix", "x")


def test_refusals_name_the_node(prompt):
    problem = {"message": "Value not in list", "details": "method: 'dpm' not in [...]"}
    error = comfy_errors.refused(prompt, {"message": "Prompt outputs failed"}, {"2": {"errors": [problem]}})
    assert str(error) == (
        "ComfyUI refuses the workflow: node \"Sampler\" (2): Value not in list: method: 'dpm' not in [...]"
    )
    assert "no outputs" in str(comfy_errors.refused(prompt, {"message": "Prompt has no outputs", "details": ""}, {}))


def test_failures_keep_the_words_of_the_pack(prompt):
    event = {"node_id": "2", "exception_type": "x.errors.RegionStyleError", "exception_message": "phrase: not found.\n"}
    assert str(comfy_errors.failed(prompt, event)) == 'node "Sampler" (2) failed: phrase: not found.'
    event["exception_type"] = "torch.OutOfMemoryError"
    assert "OutOfMemoryError: phrase" in str(comfy_errors.failed(prompt, event))


def test_a_byte_order_mark_is_read_over(tmp_path):
    file = tmp_path / "w.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"1": {"class_type": "Save", "inputs": {}}}).encode())
    assert read_workflow(file) == {"1": {"class_type": "Save", "inputs": {}}}


@pytest.mark.parametrize("definitions", [None, {}, {"subgraphs": None}, {"subgraphs": []}])
def test_a_graph_without_subgraphs_in_every_spelling(definitions):
    node = {"id": 1, "type": "Plain", "inputs": [], "outputs": [], "widgets_values": []}
    data = {"nodes": [node], "links": [], "definitions": definitions}
    assert list(to_api_form(data, {"Plain": {"input": {"required": {}}, "display_name": "Plain"}})) == ["1"]


@pytest.mark.parametrize("title", SHEETS)
def test_the_shipped_forms_name_the_same_nodes(title):
    api, ui = read_workflow(WORKFLOWS / "api" / f"{api_name(title)}.json"), read_workflow(WORKFLOWS / f"{title}.json")
    assert class_types(ui) == class_types(api)
