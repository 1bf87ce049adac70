"""A server that runs prompt after prompt holds no more of this pack than after the first ones."""

import json
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows" / "api"
COUNTED = ("tensors", "networks", "patchers", "ours")
RUNS = 6

pytestmark = pytest.mark.slow


def seeded(name: str, seed: int) -> dict:
    """A workflow with another seed, so that nothing of it comes from ComfyUI's cache; few steps."""
    prompt = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        inputs = node["inputs"]
        inputs |= {key: seed for key in ("seed", "noise_seed") if key in inputs}
        inputs |= {key: min(inputs[key], 4) for key in ("iterations", "warm_up", "steps") if key in inputs}
        if node["class_type"] == "RegionStyleTrainStyle":
            inputs["name"] = f"memory {name} {seed}"
    return prompt


@pytest.mark.parametrize("name", ["restyle_by_sentence", "two_styles_two_things", "sms_stylize", "style_from_pictures"])
@pytest.mark.parametrize("fixture", ["comfy_server", "comfy_old_server"])
def test_objects_do_not_grow(name, fixture, request):
    server, held = request.getfixturevalue(fixture), []
    for run in range(RUNS):
        history = server.wait(server.post(seeded(name, 1000 + run)))
        assert history["status"]["status_str"] == "success", history["status"]
        held.append(server.get("/probe/memory")["held"])
    early, late = held[1], held[-1]  # the first run also loads what stays
    grown = {key: late[key] - early.get(key, 0) for key in late if key in COUNTED or key.startswith("our ")}
    assert not {key: more for key, more in grown.items() if more > 0}
    assert late["bytes of tensors"] <= early["bytes of tensors"] * 1.01
    assert early["ours"] > 50, "the probe saw nothing of this pack"
