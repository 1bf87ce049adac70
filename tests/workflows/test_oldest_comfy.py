"""The oldest ComfyUI that is supported (0.3.64): the pack loads there, and the workflows that ship run as bundled.

The folder is COMFYUI_OLD_PATH, else ComfyUI-0.3.64 beside the newer one; without it these tests are skipped.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from workflow_networks import loads_public_weights, needs_networks, put_networks

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
API = sorted((WORKFLOWS / "api").glob("*.json"))
READY = [path for path in API if not loads_public_weights(json.loads(path.read_text(encoding="utf-8")))]

pytestmark = pytest.mark.slow


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def server(comfy_old_server):
    """The server; the picture that the workflows load is where the pack itself has put it."""
    return comfy_old_server


def failure(history: dict) -> str:
    """The message of a run that ended with an error."""
    assert history["status"]["status_str"] == "error", history["status"]
    return dict(history["status"]["messages"])["execution_error"]["exception_message"]


def test_it_is_the_oldest(server):
    assert server.get("/system_stats")["system"]["comfyui_version"] == "0.3.64"


def test_the_pack_loads_without_a_word(server):
    """Every node of the pack is there, and its name is nowhere in what ComfyUI complains about."""
    found = {name for name in server.get("/object_info") if name.startswith("RegionStyle")}
    pages = {page.parent.name for page in (WORKFLOWS.parent / "nodes" / "web" / "docs").glob("*/en.md")}
    log = server.log_text().partition("To see the GUI go to")[0]  # later lines may be other tests' errors
    assert not [line for line in log.splitlines() if "RegionStyle" in line and "seconds:" not in line]
    assert "IMPORT FAILED" not in log
    assert found == pages


def test_every_input_and_output_is_explained(server):
    for name, node in server.get("/object_info").items():
        if name.startswith("RegionStyle"):
            inputs = {k: v for part in ("required", "optional") for k, v in node["input"].get(part, {}).items()}
            assert all(len(v) > 1 and v[1].get("tooltip") for v in inputs.values()), name
            assert all(node["output_tooltips"]), name


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_workflow_runs(path, server, request):
    if needs_networks(load(path)):
        put_networks(request.getfixturevalue("workflow_networks"), server)
    history = server.wait(server.post(load(path)))
    assert history["status"]["status_str"] == "success", history["status"]
    assert all(np.asarray(Image.open(image).convert("RGB")).std() > 5 for image in server.images(history))


def test_restyle_changes_the_thing_and_nothing_else(server):
    history = server.wait(server.post(load(WORKFLOWS / "api" / "restyle_by_attention.json")))
    result = next(image for image in server.images(history) if image.name.startswith("RegionStyle"))
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (WORKFLOWS / "regionstyle_scene.png", result))
    changed = (before != after).any(-1)
    assert 0.01 < changed.mean() < 0.5
    assert np.abs(before[changed].astype(int) - after[changed]).mean() > 8


def test_wrong_input_is_one_clear_error(server):
    """Refused by the server (a picture that does not hang on the expert is still made), or by the node as it runs."""
    prompt = load(WORKFLOWS / "api" / "restyle_by_attention.json")
    expert = next(node for node in prompt.values() if node["class_type"] == "RegionStyleExpert")
    expert["inputs"]["expert"] = "no such file.safetensors"
    status, reply = server.post_json("/prompt", {"prompt": prompt})
    refused = status != 200 or reply["node_errors"]
    message = json.dumps(reply) if refused else failure(server.wait(reply["prompt_id"]))
    assert "no such file.safetensors" in message
