"""The tiny world in ComfyUI's own classes gives what it gives in diffusers' (to 1e-4), on both supported versions."""

import pytest

SCRIPT = """
import torch
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny, bundled
from regionstyle.nodes.tinyworld.world import scene

with torch.inference_mode():
    ours = bundled.load_predictor(LocalHost("cpu"))
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    theirs = ComfyPredictor(model, clip, vae, ComfyHost())
    image = torch.from_numpy(scene(3).image).permute(2, 0, 1)[None]
    prompt = "a red star and a blue circle on plain background"
    texts = ours.encode_text([prompt]), theirs.encode_text([prompt])
    latents = ours.encode(image), theirs.encode(image)
    noise = torch.randn(latents[0].shape, generator=torch.Generator().manual_seed(0))
    result = {"native": theirs.native_size, "factor": theirs.factor, "ids": texts[0].ids[0] == texts[1].ids[0],
              "valid": texts[0].valid.tolist() == texts[1].valid.tolist(),
              "text": float((texts[0].states - texts[1].states).abs().max()),
              "latent": float((latents[0] - latents[1]).abs().max()),
              "decoded": float((ours.decode(latents[0]) - theirs.decode(latents[0])).abs().max())}
    for t in (0.05, 0.4, 0.9):
        x = ours.add_noise(latents[0], noise, t)
        with theirs.loaded():
            a, b = ours.predict(x, t, texts[0]), theirs.predict(x, t, texts[1])
        result[f"eps {t}"] = float((a.eps - b.eps).abs().max())
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result.pop("native") == 128
    assert result.pop("factor") == 8
    assert result.pop("ids")
    assert result.pop("valid")
    assert {name: value for name, value in result.items() if value > 1e-4} == {}


@pytest.mark.slow
def test_both_forms_agree(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_both_forms_agree_on_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))
