"""SMS in real ComfyUI: outside the mask nothing changes, the MODEL is as before, the same seed gives the same."""

import pytest

SCRIPT = """
import torch
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.router.comfy.experts import attach
from regionstyle.nodes.sms.comfy.sms import match_batch
from regionstyle.nodes.sms.settings import SmsSettings
from regionstyle.nodes.sms.settings import Framing
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()
with torch.inference_mode():
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def eps(patched):
        predictor = ComfyPredictor(patched, clip, vae, ComfyHost())
        with predictor.loaded():
            return predictor.predict(x, 0.4, predictor.encode_text(["a red star in mosaic style"])).eps

    styled, style = attach(model, "tinyworld/mosaic.safetensors", 1.0, None)
    before = eps(model), eps(styled)
    frozen = [p.requires_grad for p in model.model.diffusion_model.parameters()]
    image = torch.from_numpy(scene(1).image)[None].repeat(2, 1, 1, 1)
    mask = torch.zeros(1, 128, 128); mask[0, 30:80, 30:80] = 1

    def run(patched, region, seed=1, caption="a red star"):
        settings = SmsSettings(iterations=6, seed=seed, preview_every=2)
        return match_batch(patched, clip, vae, image, region, caption, style, 0.8, settings, Framing())

    made = run(styled, mask)
    result = {
        "shape": list(made.image.shape), "notice": made.notice, "strip": list(made.strip.shape)[:2],
        "outside": bool(torch.equal(made.image[made.mask == 0], image[made.mask == 0])),
        "inside": float((made.image - image)[:, 30:80, 30:80].abs().mean()),
        "same": bool(torch.equal(run(styled, mask).image, made.image)),
        "seed": bool(torch.equal(run(styled, mask, 2).image, made.image)),
        "whole": list(run(styled, None).image.shape),
        "long": list(run(styled, mask, caption="a red star, " * 40).image.shape),
        "trace": bool(torch.equal(eps(model), before[0]) and torch.equal(eps(styled), before[1])),
        "frozen": frozen == [p.requires_grad for p in model.model.diffusion_model.parameters()],
    }
    large = torch.nn.functional.interpolate(image[:1].movedim(-1, 1), (200, 230)).movedim(1, -1)
    region = torch.zeros(1, 200, 230); region[0, 20:190, 30:200] = 1
    tiled = match_batch(styled, clip, vae, large, region, "a red star", style, 0.8,
                        SmsSettings(iterations=2, seed=1), Framing(detail="full"))
    wide = match_batch(styled, clip, vae, large[:, :150], None, "a red star", style, 0.8,
                       SmsSettings(iterations=2, seed=1), Framing(detail="both"))
    result["both sizes"] = list(wide.image.shape), list(wide.strip.shape)[:2]
    result["tiled"] = tiled.notice, bool(torch.equal(tiled.image[tiled.mask == 0], large[tiled.mask == 0]))
    result["tiled inside"] = float((tiled.image - large)[region == 1].abs().mean())
    square = match_batch(styled, clip, vae, image[:1, :96, :96].repeat(1, 2, 2, 1), None, "a red star", style, 0.8,
                         SmsSettings(iterations=2, seed=1, rate=1e-6), Framing(detail="both"))
    result["square"] = square.warning
    try:
        run(model, mask)
    except ValueError as error:
        result["bare"] = str(error)
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["shape"] == [2, 128, 128, 3] == result["whole"] == result["long"]
    assert result["notice"] == "6 of 6 iterations"
    assert result["strip"] == [1, 192]
    assert result["outside"]
    assert result["inside"] > 0.005
    assert result["same"]
    assert not result["seed"]
    assert result["tiled"] == ["2 of 2 iterations, in 4 tiles at full size", True]
    assert result["tiled inside"] > 0.005
    assert result["both sizes"] == [[1, 150, 230, 3], [1, 192]]
    assert "the iterations changed nothing that can be seen" in result["square"]
    assert result["trace"]
    assert result["frozen"]
    assert "Attach Style Expert" in result["bare"]


@pytest.mark.slow
def test_sms_in_comfy(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_sms_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))
