"""SMS on small random networks of ComfyUI's own classes: SD1.5 (noise and velocity), SDXL, SD3, FLUX."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[2]
MODELS = (TESTS / "support/family_models.py").read_text() + (TESTS / "support/comfy_models.py").read_text()

SCRIPT = """
import json
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.tiles.grid import TileGrid
from regionstyle.nodes.engine.tiles.predictor import TiledPredictor
from regionstyle.nodes.sms.fake import NAME, init_fake
from regionstyle.nodes.sms.optimise import StyleMatcher
from regionstyle.nodes.sms.presets import preset
from regionstyle.nodes.sms.score import Prompts
from regionstyle.nodes.sms.settings import SmsSettings

def set_up(family, half):
    model = comfy_model(family)
    network = model.model.diffusion_model
    fresh = init_fake(network, 5)
    layers = {k: LoraLayer(v.down, noise(*v.up.shape, seed=1) / 20, v.scale) for k, v in fresh.layers.items()}
    if half:
        with torch.inference_mode():
            network.to(torch.bfloat16)
            network.dtype = torch.bfloat16
    fake = ExpertWeights(init_fake(network, 0))
    style = attach_to_comfy(model, [ExpertWeights(Expert("style", layers))], Gates({"style": 1.0}))
    predictor = ComfyPredictor(attach_to_comfy(style, [fake], Gates()), None, None, ComfyHost())
    parameters = [p.requires_grad_(True) for p in fake.parameters()]
    texts = [predictor.from_conditioning(family_conditioning(family, seed)) for seed in (0, 1, 2)]
    return model, predictor, parameters, Prompts(*texts)

def trial(family, name, half=False):
    # Two pictures that are not square, each with its own timestep and noise; the first of them half masked.
    model, predictor, fake, prompts = set_up(family, half)
    plain = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    source = noise(2, COMFY_SHAPES[family][3], 6, 10, seed=3)
    mask = torch.ones(2, 1, 6, 10)
    mask[0, :, :, :5] = 0
    settings = SmsSettings(preset(name), iterations=5, seed=2)
    with predictor.gradients():
        matcher = StyleMatcher(predictor, source.clone(), prompts, {"style": 0.8}, fake, settings, mask.clone())
        drawn = matcher._draw("narrowing")
        score, target = matcher._score, (source * 0.9).clone()
        both = score.losses(target, matcher.source, *drawn)
        apart = []
        for row in range(2):
            one = slice(row, row + 1)
            apart.append(score.losses(target[one], matcher.source[one], drawn[0][one], drawn[1][one]))
        for _ in range(4):
            matcher.step()
        latent = matcher.latent.clone()
    moved = (latent - source).abs()
    return {
        "dtype": str(latent.dtype), "own times": drawn[0].unique().numel(),
        "finite": bool(torch.isfinite(latent).all()), "kept": bool((moved[0, :, :, :5] == 0).all()),
        "moved": [float(moved[0, :, :, 5:].min()), float(moved[1].min())],
        "fake": max(float(p.detach().abs().max()) for p in list(fake)[1::2]),
        "fake loss": matcher.history.fake, "movement": [float(v) for v in both.movement],
        "apart": [float(abs(both.movement[row] - one.movement[0])) for row, one in enumerate(apart)],
        "trace": all(torch.equal(v, plain[k]) for k, v in model.model.diffusion_model.state_dict().items()),
    }

def tiles(family):
    # One picture of two tiles, its left half kept; beside it what one tile says alone.
    model, predictor, fake, prompts = set_up(family, False)
    grid = TileGrid.over((8, 14), 8, 8)
    tiled = TiledPredictor(predictor, grid, grid.corners)
    source, mask = noise(1, COMFY_SHAPES[family][3], 8, 14, seed=3), torch.ones(1, 1, 8, 14)
    mask[..., :7] = 0
    calls = []
    hook = predictor.network.register_forward_pre_hook(lambda module, args, kwargs: calls.append(1), with_kwargs=True)
    with tiled.gradients():
        matcher = StyleMatcher(tiled, source.clone(), prompts, {"style": 0.8}, fake,
                               SmsSettings(preset("reference"), iterations=5, seed=2), mask.clone())
        for _ in range(3):
            matcher.step()
        latent = matcher.latent.clone()
        count = len(calls)
        one = predictor.predict(latent[..., :8], 0.3, prompts.style, Gates()).eps
        fused = tiled.predict(latent, 0.3, prompts.style, Gates()).eps
    hook.remove()
    moved = (latent - source).abs()
    return {
        "tiles": len(grid.corners), "calls": count, "finite": bool(torch.isfinite(latent).all()),
        "kept": bool((moved[..., :7] == 0).all()), "moved": float(moved[..., 7:].min()),
        "fake": max(float(p.detach().abs().max()) for p in list(fake)[1::2]),
        "alone": far(one[..., :6], fused[..., :6]) / float(one.abs().max()),
    }

with torch.inference_mode():
    in_tiles = {family: tiles(family) for family in FAMILIES}
    result = {f"{family} {name}": trial(family, name) for family in FAMILIES for name in ("reference", "paper")}
    if HALF:
        result |= {f"{family} half": trial(family, "reference", half=True) for family in FAMILIES}
print(json.dumps({"whole": result, "tiles": in_tiles}))
"""


def check(made: dict, families: list[str]) -> None:
    check_whole(made["whole"], families)
    assert list(made["tiles"]) == families
    for name, tiled in made["tiles"].items():
        assert tiled["tiles"] == 2, name
        assert tiled["calls"] >= 2 * 2 * 3, name  # per iteration and tile: all roles, and the fake predictor's step
        assert tiled["finite"], name
        assert tiled["kept"], name
        assert tiled["moved"] > 0, name
        assert tiled["fake"] > 1e-4, name
        assert tiled["alone"] < 1e-4, name  # where one tile lies, what it says alone


def check_whole(result: dict, families: list[str]) -> None:
    assert {name.split()[0] for name in result} == set(families)
    for name, made in result.items():
        assert made["dtype"] == "torch.float32", name
        assert made["own times"] == 2, name
        assert made["finite"], name
        assert made["kept"], name
        assert min(made["moved"]) > 0, name
        assert made["fake"] > 1e-4, name
        assert made["trace"], name
        near = 0.05 if name.endswith("half") else 1e-3  # rounding of batched products
        assert max(made["apart"]) < near * max(made["movement"]), (name, made)


def test_every_class(run_in_comfy):
    families = ["sd", "v", "sdxl", "sd3", "flux"]
    check(run_in_comfy(f"FAMILIES, HALF = {families!r}, True\n" + MODELS + SCRIPT), families)


def test_the_oldest_version(run_in_old_comfy):
    families = ["sd", "v"]
    check(run_in_old_comfy(f"FAMILIES, HALF = {families!r}, False\n" + MODELS + SCRIPT), families)
