"""A draw from the autoencoder's distribution in ComfyUI, whose nodes always take the mode."""

from pathlib import Path

import pytest

MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import torch
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny

with torch.inference_mode():
    model, vae = tiny.load_model(), sd_vae()
    predictor = ComfyPredictor(model, None, vae, ComfyHost())
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))

    def draw(seed):
        return predictor.encode_sample(images, torch.Generator().manual_seed(seed))

    with predictor.loaded():
        mode, state = predictor.encode(images), torch.get_rng_state()
        moments = []
        network = vae.first_stage_model
        before = network.regularization.forward
        network.regularization.forward = lambda z: (moments.append(z), before(z))[1]
        drawn = [draw(seed) for seed in range(40)]
        deviation = torch.exp(0.5 * moments[0].chunk(2, 1)[1].float().clamp(-30, 20))
        scale = (model.model.process_latent_in(deviation) - model.model.process_latent_in(0 * deviation)).to(mode)
        z = torch.cat([(latent - mode) / scale for latent in drawn])
        result = {
            "same": bool(torch.equal(draw(1), drawn[1])), "other": bool(torch.equal(drawn[1], drawn[2])),
            "mean": float(z.mean()), "width": float(z.std()),
            "again": bool(torch.equal(predictor.encode(images), mode)),
            "state": bool(torch.equal(torch.get_rng_state(), state)),
        }
        predictor.vae = tiny.load_vae()
        try:
            draw(0)
        except ValueError as error:
            result["without"] = str(error)
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["same"]
    assert not result["other"]
    assert abs(result["mean"]) < 0.05
    assert 0.95 < result["width"] < 1.05
    assert result["again"], "the autoencoder goes on drawing"
    assert result["state"], "torch's global random state moved"
    assert "distribution" in result["without"]


@pytest.mark.slow
def test_a_sampled_start_in_comfy(run_in_comfy):
    check(run_in_comfy(MODELS + SCRIPT))


@pytest.mark.slow
def test_a_sampled_start_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(MODELS + SCRIPT))
