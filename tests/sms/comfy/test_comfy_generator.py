"""Generators in real ComfyUI: train, cancel, go on, save, load, apply at any size, unload."""

import pytest

SCRIPT = """
import torch
import comfy.model_management as management
import folder_paths
from pathlib import Path
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.sms.comfy import generator as ours
from regionstyle.nodes.sms.settings import DistillSettings
from regionstyle.nodes.sms.score import StyleScore
from regionstyle.nodes.sms.settings import SmsSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()
ours.register_folder()
image = torch.from_numpy(scene(1).image)[None]
result = {}
with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    styled, style = attach(model, "tinyworld/watercolor.safetensors", 1.0, None)

    def run(name, resume=False, patched=styled):
        settings = DistillSettings(SmsSettings(iterations=3, rate=1e-3), warm_up=2, copies=2, size=64)
        pictures = ours.pictures_of(image.clone(), "", False)
        return ours.train(patched, clip, vae, pictures, "", style, 0.8, settings, name, resume=resume)

    whole = run("whole")
    folder = Path(folder_paths.get_folder_paths(ours.KIND)[0])
    states = Path(folder_paths.get_output_directory()) / "regionstyle"
    result["file"] = whole.file, (folder / whole.file).is_file(), (states / "whole.generator.pt").exists()
    result["shapes"] = [list(p.shape)[-2] for p in (whole.strip, whole.curves)]
    result["listed"] = sorted(name for name in ours.generator_choices() if "/" not in name)

    # ComfyUI asks in each of its layers, so this comes in the middle of the fourth iteration
    check, counted, score = management.throw_exception_if_processing_interrupted, [], StyleScore.losses
    def interrupt():
        if len(counted) > 1:
            raise management.InterruptProcessingException()
    def losses(*args):
        counted.append(1)
        return score(*args)
    management.throw_exception_if_processing_interrupted, StyleScore.losses = interrupt, losses
    try:
        run("halves")
    except management.InterruptProcessingException:
        result["stopped"] = torch.load(states / "halves.generator.pt", weights_only=True)["iteration"]
    management.throw_exception_if_processing_interrupted, StyleScore.losses = check, score
    try:
        run("halves")
    except ValueError as error:
        result["kept"] = str(error)
    halves = run("halves", resume=True)
    result["number"] = run("whole").file
    same = zip(whole.generator.network.state_dict().values(), halves.generator.network.state_dict().values())
    result["goes_on"] = all(torch.equal(a, b) for a, b in same)

    loaded = ours.load("whole.safetensors")
    large = torch.rand(2, 90, 210, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 90, 210); mask[:, 20:50, 30:120] = 1
    made, blended, said = ours.apply_to_batch(loaded, large, mask, 2, 64)
    whole_made, _, _ = ours.apply_to_batch(loaded, large, None, 2, 512)
    result["apply"] = list(made.shape), list(blended.shape)
    empty = ours.apply_to_batch(loaded, large, mask * 0, 2, 64)
    result["said"] = said, empty.warning, bool(torch.equal(empty.image, large))
    result["outside"] = bool(torch.equal(made[blended.expand(2, -1, -1) == 0], large[blended.expand(2, -1, -1) == 0]))
    inside = (slice(None), slice(20, 50), slice(30, 120))
    result["seam"] = float((made[inside] - whole_made[inside]).abs().max())
    result["changed"] = float((made[inside] - large[inside]).abs().mean())
    held = [m.model.model for m in management.current_loaded_models if m.model is not None]
    result["counted"] = any(getattr(m, "network", None) is loaded.network for m in held)
    management.unload_all_models()
    held = [m.model.model for m in management.current_loaded_models if m.model is not None]
    result["unloaded"] = not any(getattr(m, "network", None) is loaded.network for m in held)
    result["again"] = bool(torch.equal(ours.apply_to_batch(loaded, large, mask, 2, 64)[0], made))
    for name, call in {
        "name": lambda: run("../x"), "bare": lambda: run("other", patched=model),
        "both": lambda: ours.pictures_of(image, "somewhere", False),
        "neither": lambda: ours.pictures_of(None, " ", False),
        "absent": lambda: ours.load("absent.safetensors"),
    }.items():
        try:
            call()
        except ValueError as error:
            result[name] = str(error)
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["file"] == ["whole.safetensors", True, False]
    assert result["shapes"][1] == 480
    assert result["listed"] == ["whole.safetensors"]
    assert result["stopped"] == 3
    assert result["goes_on"]
    assert result["apply"] == [[2, 90, 210, 3], [2, 90, 210]]
    assert result["outside"]
    assert result["said"] == ["", "empty mask, unchanged: image 0, 1", True]
    assert result["seam"] < 1e-5
    assert result["changed"] > 1e-3
    assert result["counted"]
    assert result["unloaded"]
    assert result["again"]
    assert "Switch resume on" in result["kept"]
    assert result["number"] == "whole-2.safetensors"
    assert "'../x'" in result["name"]
    assert "Attach Style Expert" in result["bare"]
    assert "got a batch and a folder" in result["both"]
    assert "got nothing" in result["neither"]
    assert "absent.safetensors" in result["absent"]


@pytest.mark.slow
def test_generators_in_comfy(run_in_comfy, tmp_path):
    check(run_in_comfy(SCRIPT, args=("--base-directory", str(tmp_path))))


@pytest.mark.slow
def test_generators_in_the_oldest_version(run_in_old_comfy, tmp_path):
    check(run_in_old_comfy(SCRIPT, args=("--base-directory", str(tmp_path))))
