"""The expert node in real ComfyUI: the same effect as the stock LoRA loader, and no trace on the model it was given."""

import pytest

SCRIPT = """
import torch
import comfy.sd, comfy.utils
from regionstyle.nodes.engine.comfy_host import ComfyHost
from regionstyle.nodes.engine.comfy_predictor import ComfyPredictor
from regionstyle.nodes.router.comfy_experts import attach, expert_choices, restyle_batch
from regionstyle.nodes.router.restyle import RestyleSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny, shipped
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()
FILE = "tinyworld/mosaic.safetensors"
result = {"listed": FILE in expert_choices()}
with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def eps(patched):
        predictor = ComfyPredictor(patched, clip, vae, ComfyHost())
        with predictor.loaded():
            return predictor.predict(x, 0.4, predictor.encode_text(["a red star in mosaic style"])).eps

    before = eps(model)
    ours, style = attach(model, FILE, 1.0, None)
    off, _ = attach(model, FILE, 0.0, None)
    lora = comfy.utils.load_torch_file(str(shipped.expert_path("mosaic")))
    stock, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    routed = eps(ours)
    result |= {"style": style, "off": bool(torch.equal(eps(off), before)),
               "stock": float((routed - eps(stock)).abs().max()),
               "effect": float((routed - before).abs().max()), "trace": bool(torch.equal(eps(model), before))}

    half = torch.zeros(1, 64, 64); half[..., :32] = 1
    masked = eps(attach(model, FILE, 1.0, half)[0])
    result["left"] = float((masked - before)[..., :4].abs().mean())
    result["right"] = float((masked - before)[..., 12:].abs().mean())
    double, _ = attach(ours, FILE, 0.5, None)
    result["chained"] = bool((eps(double) - routed).abs().max() > 1e-4)

    image = torch.from_numpy(scene(1).image)[None].repeat(2, 1, 1, 1)
    mask = torch.zeros(2, 128, 128); mask[1, 30:80, 30:80] = 1
    settings = RestyleSettings(steps=2, feather=0)
    made = restyle_batch(ours, clip, vae, image, mask, "a picture in mosaic style", "", settings)
    result |= {"batch": list(made.image.shape), "notice": made.notice,
               "empty": bool(torch.equal(made.image[0], image[0])),
               "outside": bool(torch.equal(made.image[1][mask[1] == 0], image[1][mask[1] == 0])),
               "inside": float((made.image[1] - image[1])[mask[1] == 1].abs().mean())}
    try:
        attach(model, "tinyworld/none.safetensors", 1.0, None)
    except ValueError as error:
        result["missing"] = str(error)
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["listed"]
    assert result["style"] == "mosaic"
    assert result["off"], "strength 0 is not the plain model"
    assert result["trace"], "the model that was given has changed"
    assert result["effect"] > 0.01
    assert result["stock"] < 1e-4
    assert result["left"] > 2 * result["right"]
    assert result["chained"]
    assert result["batch"] == [2, 128, 128, 3]
    assert result["empty"]
    assert result["outside"]
    assert result["inside"] > 0.01
    assert "image 0" in result["notice"]
    assert "none.safetensors" in result["missing"]


@pytest.mark.slow
def test_experts_in_comfy(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_experts_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))
