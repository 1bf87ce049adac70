"""Workflows for public weights, on random weights of the real layout: they run, and do what they say.

A checkpoint of SD1.5's layout goes through Load Checkpoint on both versions. FLUX.1 Kontext goes through Load Diffusion
Model on 0.33, and through a node of the probe pack on 0.3.64, which takes its width for granted; T5 is loaded by the
probe pack on both (`with_probes`), and the pictures are smaller than Kontext's.
"""

import copy
import json
import time
from pathlib import Path

import numpy as np
import pytest
from checkpoint_networks import lightened, save_checkpoint
from kontext_networks import save_kontext, with_probes
from PIL import Image, ImageFilter
from workflow_networks import put_networks

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
VERSIONS = ("comfy_server", "comfy_old_server")
# Workflow -> its node that paints, and its experts.
RESTYLES = {
    "checkpoint_lora_by_phrase": ("5", ("4",)),
    "checkpoint_lora_painted_mask": ("4", ("3",)),
    "several_loras_several_things": ("5", ("3", "4")),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint(comfy_path, comfy_python, tmp_path_factory) -> Path:
    return save_checkpoint(comfy_path, comfy_python, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def kontext(comfy_path, comfy_python, tmp_path_factory) -> Path:
    return save_kontext(comfy_path, comfy_python, tmp_path_factory.mktemp("kontext"))


@pytest.fixture(params=VERSIONS)
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def with_checkpoint(server, checkpoint):
    put_networks(checkpoint, server)
    return server


@pytest.fixture
def with_kontext(server, kontext):
    put_networks(kontext, server)
    return server


def load(name: str) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def kontext_workflow(server) -> dict:
    old = server.get("/system_stats")["system"]["comfyui_version"] == "0.3.64"
    return with_probes(load("kontext_with_published_experts"), old)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def pixels_far_from(mask: np.ndarray) -> np.ndarray:
    """Bool `[H,W]`: what is 4 pixels or more away from a mask's picture, whose values end below what 8 bits show."""
    return ~np.asarray(Image.fromarray(mask).filter(ImageFilter.MaxFilter(9))).any(-1)


def with_values(prompt: dict, **values: object) -> dict:
    """`_4_strength=0.0` for input strength of node 4."""
    made = copy.deepcopy(prompt)
    for place, value in values.items():
        node, name = place[1:].split("_", 1)
        made[node]["inputs"][name] = value
    return made


def watching(prompt: dict, **outputs: tuple[str, int, str]) -> dict:
    """The prompt with a picture of some outputs; name -> node, output, IMAGE or MASK."""
    made = copy.deepcopy(prompt)
    for name, (node, slot, kind) in outputs.items():
        picture = [node, slot]
        if kind == "MASK":
            made[f"{name}:picture"] = {"class_type": "MaskToImage", "inputs": {"mask": picture}}
            picture = [f"{name}:picture", 0]
        made[name] = {"class_type": "PreviewImage", "inputs": {"images": picture}}
    return made


def run(server, prompt: dict) -> dict[str, np.ndarray]:
    """Node -> the first picture that it shows. Fails with ComfyUI's own words."""
    history = server.wait(server.post(prompt), 900)
    assert history["status"]["status_str"] == "success", history["status"]
    shown = {node: server.images({"outputs": {node: output}}) for node, output in history["outputs"].items()}
    return {node: pixels(images[0]) for node, images in shown.items() if images}


def interrupted(server, prompt: dict) -> float:
    """Start a prompt of many steps, interrupt it after a while, and tell how long that took."""
    number = server.post(prompt)
    end = time.monotonic() + 300
    while time.monotonic() < end and not server.running(number):
        time.sleep(0.1)
    time.sleep(5)
    assert server.running(number), "it ended before it could be cancelled"
    server.interrupt()
    started = time.monotonic()
    history = server.wait(number)
    kinds = [kind for kind, _ in history["status"]["messages"]]
    assert "execution_interrupted" in kinds, kinds
    return time.monotonic() - started


@pytest.mark.parametrize("name", RESTYLES)
def test_the_lora_acts_inside_its_region_and_nowhere_else(name, with_checkpoint):
    """As shipped but for less work; the random attention finds some place, the painted mask is the thing."""
    painter, experts = RESTYLES[name]
    prompt = watching(lightened(load(name)), mask=(painter, 1, "MASK"), before=("2", 0, "IMAGE"))
    shown = run(with_checkpoint, prompt)
    saved = next(key for key, node in prompt.items() if node["class_type"] == "SaveImage")
    inside, outside = shown["mask"].any(-1), pixels_far_from(shown["mask"])
    assert inside.mean() > 0.01
    if len(experts) == 1:  # what random attention finds for two things is all of the picture
        assert outside.mean() > 0.01
    assert (shown[saved] == shown["before"])[outside].all()
    assert (shown[saved] != shown["before"])[inside].any(-1).mean() > 0.5
    for expert in experts:
        without = run(with_checkpoint, with_values(prompt, **{f"_{expert}_strength": 0.0}))
        assert (without["mask"] == shown["mask"]).all()
        assert (without[saved] != shown[saved]).any(), f"expert {expert} does nothing"


def test_guidance_of_no_step_is_the_stock_sampler_and_more_is_not(with_checkpoint):
    guided = lightened(load("guided_sd1.5"))
    stock = with_values(guided, _7_model=["1", 0], _7_positive=["words", 0])
    stock["words"] = {
        "class_type": "CLIPTextEncode",
        "inputs": {"clip": ["1", 1], "text": guided["5"]["inputs"]["prompt"]},
    }
    plain = run(with_checkpoint, stock)["9"]
    assert (run(with_checkpoint, with_values(guided, _5_step=0.0))["9"] == plain).all()
    for form in ("gradient", "bias", "composition"):
        assert (run(with_checkpoint, with_values(guided, _5_form=form))["9"] != plain).any(), form


def test_a_sampler_of_a_checkpoint_is_cancelled(with_checkpoint):
    prompt = with_values(lightened(load("checkpoint_lora_painted_mask")), _4_steps=1000, _4_seed=9)
    assert interrupted(with_checkpoint, prompt) < 60
    assert run(with_checkpoint, lightened(load("checkpoint_lora_painted_mask")))


def test_kontext_with_small_loaders_changes_the_painted_thing_alone(with_kontext):
    """Outside the mask the scaled picture, bit for bit; the style chooses the expert; no expert is another picture."""
    prompt = watching(kontext_workflow(with_kontext), mask=("8", 0, "MASK"), before=("5:small", 0, "IMAGE"))
    shown = run(with_kontext, prompt)
    outside = pixels_far_from(shown["mask"])
    assert 0.5 < outside.mean() < 0.99
    assert (shown["23"] == shown["before"])[outside].all()
    assert (shown["23"] != shown["before"]).any()
    words = load("kontext_with_published_experts")["15"]["inputs"]["prompt"]
    other = words.replace("pixel-art", "line-art")
    line_art = with_values(prompt, _13_style="line-art", _15_prompt=other)
    off = with_values(line_art, _10_strength=0.0)
    pictures = [run(with_kontext, each)["23"] for each in (line_art, off)]
    assert (pictures[0] != pictures[1]).any(), "line-art does nothing"
    assert (pictures[0] != shown["23"]).any()


def test_kontext_with_small_loaders_is_cancelled(with_kontext):
    prompt = with_values(kontext_workflow(with_kontext), _20_steps=1000, _20_seed=7)
    assert interrupted(with_kontext, prompt) < 60
