"""Node ids, input names and their order, ranges and outputs are for ever: a saved workflow must keep loading.

`node_signatures.json` holds what the nodes declared when each was released. A new input goes to the end, optional, and
`REGIONSTYLE_WRITE_SIGNATURES=1` writes the file again; then read the difference before committing it.
"""

import json
import os
from pathlib import Path

import pytest

SAVED = Path(__file__).with_name("node_signatures.json")
KEPT = ("input", "input_order", "output", "output_name", "display_name", "category", "output_node", "deprecated")
FILES = ("file", "folder", "expert", "sampler_name", "scheduler")  # choices that the user or ComfyUI brings

pytestmark = pytest.mark.slow


def signature(node: dict) -> dict:
    """What a saved workflow and its reader depend on; tooltips may be worded better at any time."""
    kept = {key: node[key] for key in KEPT if key in node}
    kept["input"] = {
        kind: {name: [_type(spec), _lasting(spec, name in FILES)] for name, spec in inputs.items()}
        for kind, inputs in node["input"].items()
        if kind != "hidden"
    }
    return kept


def _type(spec: list) -> str:
    return spec[0] if isinstance(spec[0], str) else "COMBO"


def _lasting(spec: list, files: bool) -> dict:
    """Default, range, step and choices of an input; no tooltip, and no choices that are the user's files."""
    options = dict(spec[1]) if len(spec) > 1 else {}
    if files:
        options.pop("options", None)
    return {key: value for key, value in sorted(options.items()) if key != "tooltip"}


def test_signatures_are_those_of_the_last_release(comfy_server):
    found = {
        name: signature(node)
        for name, node in sorted(comfy_server.get("/object_info").items())
        if name.startswith("RegionStyle")
    }
    if os.environ.get("REGIONSTYLE_WRITE_SIGNATURES"):
        SAVED.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    saved = json.loads(SAVED.read_text(encoding="utf-8"))
    assert list(found) == list(saved)
    for name, node in saved.items():
        assert found[name] == node, name
        assert found[name]["input_order"] == node["input_order"], name  # dictionaries compare without their order
