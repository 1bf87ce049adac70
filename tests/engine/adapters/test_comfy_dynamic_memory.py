"""Gradients and ComfyUI's memory modes: models from files, through its own loader node, in prompts of its server.

On a CPU ComfyUI never streams weights, so there only the replacement itself is tested, with ComfyUI's own function for
making it. The tests on a GPU run where ComfyUI finds one.
"""

import json
from pathlib import Path

import pytest

from comfy_script import has_gpu
from comfy_server import ComfyServer

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

# Small models that ComfyUI recognises in a file: SD3 of depth 2, Flux of one head.
FILES = """
import comfy.supported_models
import safetensors.torch

def state_of(model):
    return {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}

with torch.inference_mode():
    safetensors.torch.save_file(state_of(sd3_model()), FOLDER + "/sd3.safetensors")
    safetensors.torch.save_file(state_of(flux_model(hidden_size=128, num_heads=1, axes_dim=[16, 56, 56], depth=1,
        depth_single_blocks=1, context_in_dim=4096, vec_in_dim=768)), FOLDER + "/flux.safetensors")
print(json.dumps({}))
"""

REPLACED = """
import comfy.model_patcher
import comfy.sd
from comfy.model_patcher import PatcherInjection
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.host.gradients import ordinary

class Streamed(comfy.model_patcher.ModelPatcher):
    # What ComfyUI's loaders give under dynamic VRAM, as far as making a replacement is concerned.
    non_dynamic_delegate_model = None
    is_dynamic = lambda self: True
    get_non_dynamic_delegate = comfy.model_patcher.ModelPatcherDynamic.get_non_dynamic_delegate

def loaded():
    model = comfy.sd.load_diffusion_model(FOLDER + "/sd3.safetensors")
    key = "diffusion_model.final_layer.linear.weight"
    model.add_patches({key: (noise(64, 128, seed=4),)}, 0.1)

    def inject(patcher):
        layer = patcher.model.diffusion_model.final_layer
        layer.forward = lambda *a, original=layer.forward: original(*a) * 0.5

    eject = lambda patcher: patcher.model.diffusion_model.final_layer.__dict__.pop("forward", None)
    model.set_injections("test", [PatcherInjection(inject, eject)])
    return model

out = {}
with torch.inference_mode():
    plain, streamed = loaded(), loaded()
    streamed.__class__ = Streamed
    cond = family_conditioning("sd3")
    x, target = noise(1, 16, 8, 10), noise(1, 16, 8, 10, seed=5)

    def differentiate(model):
        predictor = ComfyPredictor(model, None, None, ComfyHost())
        text = predictor.from_conditioning(cond)
        with predictor.gradients():
            latent = ordinary(x).requires_grad_()
            with AttentionTap(predictor, [[1, 2]]) as tap:
                result = predictor.predict(latent, 0.5, text).denoised
            loss = (result * ordinary(target)).sum() + tap.mean().square().sum()
            gradient, = torch.autograd.grad(loss, latent)
            inside = predictor.model
        return result.detach(), gradient, inside, predictor.model

    wanted, used = differentiate(plain), differentiate(streamed)
    out["same"] = [far(a, b) for a, b in zip(wanted[:2], used[:2])]
    out["size"] = float(wanted[1].abs().max())
    out["replaced"] = [used[2] is streamed, used[2].is_dynamic(), used[2].model is streamed.model, used[3] is streamed]
    out["plain"] = wanted[2] is plain
    out["again"] = differentiate(streamed)[2].model is used[2].model

    streamed.cached_patcher_init, streamed.non_dynamic_delegate_model = None, None
    out["error"] = message(differentiate, streamed)
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def files(run_in_comfy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    run_in_comfy(MODELS + f"FOLDER = {str(folder)!r}\n" + FILES)
    return folder


@pytest.fixture(scope="module")
def replaced(run_in_comfy, files):
    return run_in_comfy(MODELS + f"FOLDER = {str(files)!r}\n" + REPLACED)


def test_a_streamed_model_is_replaced_by_a_whole_one(replaced):
    assert replaced["replaced"] == [False, False, False, True]
    assert replaced["plain"]
    assert replaced["size"] > 1e-2
    assert replaced["same"] == [0, 0], "the replacement must carry patches and injections of the model"
    assert replaced["again"], "the replacement is made once"


def test_a_model_that_cannot_be_replaced_is_one_error(replaced):
    assert replaced["error"].startswith("RegionStyleError: model: ")
    assert "--disable-dynamic-vram" in replaced["error"]


@pytest.fixture(scope="module", params=["cpu", "gpu", "gpu without dynamic memory"])
def server(request, files, comfy_path, comfy_python, tmp_path_factory):
    """A ComfyUI in one of its memory modes. float32, or finite differences would drown in rounding."""
    if request.param != "cpu" and not has_gpu(comfy_python):
        pytest.skip("no GPU")
    flags = {"cpu": ("--cpu",), "gpu": (), "gpu without dynamic memory": ("--disable-dynamic-vram",)}[request.param]
    base = tmp_path_factory.mktemp("comfy")
    place = base / "models" / "diffusion_models"
    place.mkdir(parents=True)
    for file in files.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    server = ComfyServer(comfy_path, comfy_python, base, flags=(*flags, "--force-fp32"))
    yield request.param, server
    server.stop()


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_gradients_of_loaded_models_agree_with_finite_differences(server, family):
    mode, comfy = server
    prompt = {
        "1": {"class_type": "UNETLoader", "inputs": {"unet_name": f"{family}.safetensors", "weight_dtype": "default"}},
        "2": {"class_type": "ProbeGradients", "inputs": {"model": ["1", 0]}},
    }
    history = comfy.wait(comfy.post(prompt))
    assert history["status"]["status_str"] == "success", history["status"]["messages"][-1]
    found = json.loads(history["outputs"]["2"]["text"][0])
    assert found["device"] == ("cpu" if mode == "cpu" else "cuda")
    if mode == "gpu" and "DynamicVRAM support detected and enabled" in comfy.log_text():
        assert found["streamed"]
    if mode != "gpu":
        assert not found["streamed"]
    assert found["whole"]
    assert found["still"] <= 1e-5 * found["size"]
    for gradient, difference in found["slopes"]:
        assert abs(difference) > 1e-3
        assert gradient == pytest.approx(difference, rel=1e-2)
