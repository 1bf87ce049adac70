"""Inpainting checkpoints in ComfyUI: nodes that draw and look work with them, and tell them the region.

The tiny world's U-Net with five more input channels of weight 0 must give what the plain one gives.
"""

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import comfy.supported_models, comfy.model_base, comfy.model_patcher, comfy.model_management as mm
import torch
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.grounding.comfy.attention import find_in_batch
from regionstyle.nodes.grounding.settings import AttentionSettings
from regionstyle.nodes.router.comfy.experts import attach, restyle_batch
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.sms.comfy.sms import match_batch
from regionstyle.nodes.sms.settings import Framing, SmsSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()

def wide(channels, kind=comfy.supported_models.SD15):
    config = {**tiny._unet_config(), "in_channels": channels}
    made = kind(config)
    made.unet_config.update(config)
    made.set_inference_dtype(torch.float32, None)
    model = made.get_model({}, "")
    state = tiny._unet_state(tiny._unet_config())
    first = torch.zeros(state["input_blocks.0.0.weight"].shape[0], channels, 3, 3)
    first[:, :4] = state["input_blocks.0.0.weight"]
    model.diffusion_model.load_state_dict({**state, "input_blocks.0.0.weight": first})
    if channels == 9:
        model.set_inpaint()
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return patcher(model.eval(), mm.get_torch_device(), mm.unet_offload_device())

def error(call, *args):
    try:
        call(*args)
    except ValueError as problem:
        return str(problem)
    return ""

with torch.inference_mode():
    plain, inpaint, clip, vae = tiny.load_model(), wide(9), tiny.load_clip(), tiny.load_vae()
    image = torch.from_numpy(scene(3).image.copy())[None].repeat(2, 1, 1, 1)
    mask = torch.zeros(2, 128, 128); mask[0, 24:88, 32:96] = 1; mask[1, 60:100, 20:60] = 1
    seen = []
    inpaint.model.diffusion_model.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))

    def find(model):
        looking = AttentionSettings(seed=0, noise_samples=1)
        return find_in_batch(model, clip, vae, image[:1], "orange triangle", "", looking, False).masks

    def restyle(model):
        styled, style = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
        settings = RestyleSettings(steps=2, cfg=3.0, strength=0.4)
        return restyle_batch(styled, clip, vae, image, mask, "a star in mosaic style", "", settings).image

    def tiles(model):
        styled, style = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
        settings = RestyleSettings(steps=1, cfg=3.0, strength=0.4, detail="full")
        large = torch.nn.functional.interpolate(image[:1].movedim(-1, 1), (200, 150)).movedim(1, -1)
        region = torch.nn.functional.interpolate(mask[:1, None], (200, 150))[:, 0]
        return restyle_batch(styled, clip, vae, large, region, "a star in mosaic style", "", settings).image

    def sms(model, region=mask):
        styled, style = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
        settings = SmsSettings(iterations=3, preview_every=3)
        return match_batch(styled, clip, vae, image, region, "a star", style, 0.8, settings, Framing()).image

    result = {"same": {}, "told": {}}
    runs = {"find": find, "restyle": restyle, "tiles": tiles, "sms": sms, "whole": lambda m: sms(m, None)}
    for name, run in runs.items():
        wanted = run(plain)
        seen.clear()
        result["same"][name] = float((run(inpaint) - wanted).abs().max())
        masks = torch.cat([x[:, 4] for x in seen])
        result["told"][name] = [float(masks.amin()), float(masks.mean()), sorted(set(masks.unique().tolist()))]
    predictor = ComfyPredictor(inpaint, clip, vae, ComfyHost())
    with predictor.loaded():
        seen.clear()
        predictor.predict(torch.zeros(1, 4, 16, 16), 0.5, predictor.encode_text([""]))
        grey = predictor.encode(torch.full((1, 3, 128, 128), 0.5))
    result["grey"] = float((seen[0][:, 5:] - grey).abs().max())
    edit = wide(8, comfy.supported_models.SD15_instructpix2pix)
    result["edit"] = [type(edit.model).__name__, error(find, edit), error(sms, edit)]
print(json.dumps(result))
"""


@pytest.mark.parametrize("run", ["run_in_comfy", "run_in_old_comfy"])
def test_inpainting_checkpoints_draw_and_look(run, request):
    result = request.getfixturevalue(run)(SCRIPT)
    assert {name: error for name, error in result["same"].items() if error > 2e-3} == {}
    told = result["told"]
    assert told["find"] == told["whole"] == [1.0, 1.0, [1.0]]  # everything is to be redrawn
    for name in ("restyle", "tiles", "sms"):
        least, mean, values = told[name]
        assert least == 0.0
        assert 0.1 < mean < (0.8 if name == "tiles" else 0.6)  # tiles without a region are not asked for
        assert values == [0.0, 1.0]
    assert result["grey"] < 1e-5
    name, *errors = result["edit"]
    assert name == "SD15_instructpix2pix"
    assert all(error.startswith("model: got SD15_instructpix2pix") for error in errors)
