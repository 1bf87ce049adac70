"""ComfyUI's own bundled templates, converted by the pack: how many of them, and whether as the browser does it.

front_end_prompts.json holds what `app.graphToPrompt()` of ComfyUI's front end 1.49.6 gave for a dozen templates in a
browser, with the SHA-256 of each template: one that was changed since is not compared.
"""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from regionstyle.nodes.app.workflow.workflow import class_types, read_workflow, to_api_form
from regionstyle.nodes.engine.errors import RegionStyleError

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).with_name("front_end_prompts.json")
SMALLEST_SHARE = 0.95

SCRIPT = """
import asyncio, importlib.util, json, pathlib, sys
import nodes, server

loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
server.PromptServer(loop)
loop.run_until_complete(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=True))
definitions = {}
for name, node in nodes.NODE_CLASS_MAPPINGS.items():
    try:
        if hasattr(node, "GET_NODE_INFO_V1"):
            definitions[name] = node.GET_NODE_INFO_V1()
        else:
            inputs = node.INPUT_TYPES()
            order = {section: list(specs) for section, specs in inputs.items()}
            definitions[name] = {"input": inputs, "input_order": order}
    except Exception as error:
        print(name, error, file=sys.stderr)
pathlib.Path(FILE).write_text(json.dumps(definitions, default=str))
found = importlib.util.find_spec("comfyui_workflow_templates_json")
print(json.dumps({"templates": str(pathlib.Path(found.origin).parent / "templates") if found else ""}))
"""


@pytest.fixture(scope="module")
def comfy(run_in_comfy, tmp_path_factory):
    """(the definitions of all of ComfyUI's nodes, the folder of its templates)."""
    file = tmp_path_factory.mktemp("definitions") / "definitions.json"
    folder = run_in_comfy(f"FILE = {str(file)!r}\n{SCRIPT}")["templates"]
    if not folder:
        pytest.skip("the package comfyui-workflow-templates is not installed there, or is one of another layout")
    return json.loads(file.read_text()), Path(folder)


def workflows(folder):
    """(file, workflow) of the templates; the folder has lists of them too."""
    for file in sorted(folder.glob("*.json")):
        data = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(data, dict) and "nodes" in data:
            yield file, read_workflow(file)


def test_the_templates_convert(comfy, capsys):
    definitions, folder = comfy
    known, failed = 0, {}
    for file, workflow in workflows(folder):
        if class_types(workflow) <= set(definitions):
            known += 1
            try:
                to_api_form(workflow, definitions)
            except RegionStyleError as error:
                failed[file.name] = str(error)
    with capsys.disabled():
        sys.stdout.write(f"\n{known - len(failed)} of {known} templates with known nodes convert; not: {failed}\n")
    assert known > 50
    assert known - len(failed) >= SMALLEST_SHARE * known


def test_as_the_front_end_converts_them(comfy):
    definitions, folder = comfy
    compared = []
    for name, expected in json.loads(REFERENCE.read_text(encoding="utf-8"))["templates"].items():
        file = folder / name
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == expected["sha256"]:
            compared.append(name)
            assert without_titles(to_api_form(read_workflow(file), definitions)) == expected["prompt"], name
    if not compared:
        pytest.skip("this ComfyUI has other versions of all of these templates")


def without_titles(prompt):
    """Titles are translated in the browser."""
    return {node_id: {"class_type": node["class_type"], "inputs": node["inputs"]} for node_id, node in prompt.items()}
