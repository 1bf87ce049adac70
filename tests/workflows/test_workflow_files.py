"""Files of the browser form: no nulls, nothing overlaps, and they say the same as the API form."""

import json
import re
from pathlib import PurePosixPath

import pytest
from workflow_files import LOADERS, PREVIEW, SHEETS, WORKFLOWS, api_name, sockets, widget_values

from regionstyle.nodes.app.downloads.catalogue import load_catalogue
from regionstyle.nodes.app.workflow.workflow import read_workflow
from regionstyle.nodes.engine.language.nouns import article

TITLE_BAR = 30  # pixels that a node's title takes above its position


def load(title: str) -> dict:
    return json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8"))


def nulls(value, path: str = "") -> list[str]:
    if isinstance(value, dict):
        return [found for key, part in value.items() for found in nulls(part, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for at, part in enumerate(value) for found in nulls(part, f"{path}[{at}]")]
    return [path] if value is None else []


@pytest.mark.parametrize("path", sorted(WORKFLOWS.rglob("*.json")), ids=lambda path: path.stem)
def test_no_file_holds_a_null(path):
    assert not nulls(json.loads(path.read_text(encoding="utf-8")))


def frame(node: dict) -> tuple[float, float, float, float]:
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_BAR, left + width, top + height


@pytest.mark.parametrize("title", SHEETS)
def test_nodes_do_not_overlap(title):
    nodes = load(title)["nodes"]
    for at, one in enumerate(nodes):
        for other in nodes[:at]:
            a, b = frame(one), frame(other)
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (one["title"], other["title"])


@pytest.mark.parametrize("title", SHEETS)
def test_a_note_above_the_graph_says_what_it_does(title):
    nodes = load(title)["nodes"]
    (note,) = (node for node in nodes if node["type"] == "MarkdownNote")
    others = [frame(node) for node in nodes if node is not note]
    assert frame(note)[3] < min(top for _, top, _, _ in others)
    assert SHEETS[title].note in note["widgets_values"][0]
    assert "upload" not in note["widgets_values"][0].lower()


@pytest.mark.parametrize("title", SHEETS)
def test_what_grows_a_preview_has_room_below(title):
    """Samplers show the steps in the node: what lies below it stays free for the height of a picture."""
    from workflow_files import GROWS

    nodes = load(title)["nodes"]
    for node in (node for node in nodes if node["type"] in GROWS):
        left, _, right, bottom = frame(node)
        below = [other for other in map(frame, nodes) if other[0] < right and left < other[2] and other[1] >= bottom]
        assert all(top - bottom >= PREVIEW for _, top, _, _ in below), node["title"]


@pytest.mark.parametrize("title", SHEETS)
def test_both_forms_are_the_same_graph(title):
    """Nodes, titles and links; that the values are the same is seen on a server, which knows every node's widgets."""
    graph, api = load(title), read_workflow(WORKFLOWS / "api" / f"{api_name(title)}.json")
    shown = {str(node["id"]): node for node in graph["nodes"] if node["type"] != "MarkdownNote"}
    assert {key: (node["type"], node["title"]) for key, node in shown.items()} == {
        key: (node["class_type"], node["_meta"]["title"]) for key, node in api.items()
    }
    links = {
        (str(to), shown[str(to)]["inputs"][at]["name"]): [str(of), slot] for _, of, slot, to, at, _ in graph["links"]
    }
    assert links == {
        (key, name): value
        for key, node in api.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    }


@pytest.mark.parametrize("title", SHEETS)
def test_every_input_of_our_nodes_is_there(title):
    """A value is told by its place in the file: where an input is missing, the next one's value is taken for its own.

    Remedy: `python tests/support/workflow_files.py`, as soon as a node has a new input.
    """
    signatures = json.loads((WORKFLOWS.parent / "tests" / "node_signatures.json").read_text(encoding="utf-8"))
    api = read_workflow(WORKFLOWS / "api" / f"{api_name(title)}.json")
    for node in load(title)["nodes"]:
        if node["type"] in signatures:
            definition, key = signatures[node["type"]], str(node["id"])
            names = [slot["name"] for slot in sockets({"id": key}, definition, {})]
            assert [slot["name"] for slot in node["inputs"]] == names, node["title"]
            assert node["widgets_values"] == widget_values(api[key], definition), node["title"]


@pytest.mark.parametrize("title", [title for title in SHEETS if title[:2] in ("31", "32", "33", "34", "35")])
def test_public_weights_are_offered_by_name_address_and_folder(title):
    """What ComfyUI's panel of missing models reads: every file that a stock loader names, as the catalogue has it."""
    places = {part.place(file) for model in load_catalogue().models.values() for part in model.parts
              for file in part.files}  # fmt: skip
    loaders = [node for node in load(title)["nodes"] if node["type"] in LOADERS]
    assert loaders
    for node in loaders:
        offered = node["properties"]["models"]
        named = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        assert [model["name"] for model in offered] == named
        assert all(PurePosixPath(model["directory"], model["name"]) in places for model in offered)
        assert all(model["url"].startswith("https://huggingface.co/") for model in offered)


@pytest.mark.parametrize("title", [title for title in SHEETS if title[:2] in ("15", "16", "22")])
def test_files_of_other_loaders_are_offered_too_and_the_note_names_the_command(title):
    nodes, catalogue = load(title)["nodes"], load_catalogue().models
    (offered,) = [model for node in nodes if node["type"] in LOADERS for model in node["properties"]["models"]]
    assert offered["name"] in [value for node in nodes for value in node["widgets_values"]]
    (part,) = [
        part for model in catalogue.values() for part in model.parts for file in part.files
        if part.place(file) == PurePosixPath(offered["directory"], offered["name"])
    ]  # fmt: skip
    assert offered["url"] == part.address(offered["name"])
    named = re.search(r"`regionstyle download ([^`]+)`", SHEETS[title].weights)
    assert named is not None
    assert set(named[1].split()) <= set(catalogue)


@pytest.mark.parametrize("path", sorted(WORKFLOWS.rglob("*.json")), ids=lambda path: path.stem)
def test_articles_fit_their_words(path):
    found = re.findall(r"\b(an?) ([a-z]\w+)", path.read_text(encoding="utf-8"), re.IGNORECASE)
    assert [words for words in found if words[0].lower() != article(words[1])] == []
