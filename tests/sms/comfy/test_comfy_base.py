"""SMS in ComfyUI with a base MODEL of its own for real and fake, and a sampled start."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import torch, comfy.sd
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.sms.comfy.sms_nodes import SmsStylize
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()

def error(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ValueError as problem:
        return str(problem)
    return ""

with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    styled, style = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
    image = torch.from_numpy(scene(1).image.copy())[None]
    mask = torch.zeros(1, 128, 128); mask[0, 30:80, 30:80] = 1

    def run(base=None, start=None, vae=vae, model=styled):
        given = {name: value for name, value in {"base": base, "start": start}.items() if value is not None}
        return SmsStylize.execute(model=model, clip=clip, vae=vae, image=image, caption="a red star", style=style,
                                  mask=mask, strength=0.8, iterations=4, content=1.0, guidance=7.5, rate=0.1, seed=1,
                                  preset="reference", schedule="narrowing", relevance=True, fake_rate=0.001,
                                  tolerance=0.0, margin=0.25, feather=2, **given).args[0]

    alone = run()
    loaded_twice, other = tiny.load_model(), tiny.load_model()
    with torch.inference_mode(False), torch.no_grad():
        for parameter in other.model.diffusion_model.parameters():
            parameter.mul_(1.05)
    other_styled = attach(loaded_twice, "tinyworld/neon.safetensors", 1.0, None)[0]
    far = lambda made: float((made - alone).abs().max())
    result = {
        "moved": float((alone - image).abs().max()), "same model": far(run(model)), "with experts": far(run(styled)),
        "loaded twice": far(run(loaded_twice)), "its experts are off": far(run(other_styled)),
        "another": far(run(other)), "alone again": far(run()),
    }
    patched = model.clone()
    key = next(key for key in patched.model.state_dict() if key.endswith("attn2.to_q.weight"))
    patched.add_patches({key: (torch.ones_like(patched.model.state_dict()[key]),)})
    result["patched"] = error(run, patched)
    result["other latents"] = error(run, sd3_model())
    result["mode"] = far(run(start="mode"))
    result["no distribution"] = error(run, start="sample")
    result["sample"] = far(run(start="sample", vae=sd_vae()))
    result["of its mode"] = float((run(start="sample", vae=sd_vae()) - run(start="mode", vae=sd_vae())).abs().max())
    result["wrong"] = error(run, start="middle")
print(json.dumps(result))
"""


@pytest.mark.parametrize("run", ["run_in_comfy", "run_in_old_comfy"])
def test_a_base_of_its_own_and_a_sampled_start(run, request):
    result = request.getfixturevalue(run)(MODELS + SCRIPT)
    assert result["moved"] > 0.05
    assert result["same model"] == result["with experts"] == result["alone again"] == result["mode"] == 0
    # two batches in place of one: equal but for the order of sums
    assert result["loaded twice"] < 1e-3
    assert result["its experts are off"] < 1e-3
    assert result["another"] > 1e-2
    assert result["patched"].startswith("base: got the network of model with other patches")
    assert result["other latents"].startswith("base: got latents of 16 channels")
    assert "distribution" in result["no distribution"]
    assert result["of its mode"] > 1e-3
    assert result["wrong"].startswith("start: got 'middle'")
