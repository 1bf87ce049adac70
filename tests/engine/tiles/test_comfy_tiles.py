"""Tiles in real ComfyUI on small random networks of every class: SD1.5, SDXL, SD3, FLUX.

The oracle asks the network of each tile by itself: its prompt, and the masks of its experts as they lie in that tile.
"""

import pytest
from family_scripts import MODELS

pytestmark = pytest.mark.slow

SCRIPT = """
import comfy.model_management as management
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.lora.init import init_lora
from regionstyle.nodes.engine.predictor.sampling import guided, partial_times
from regionstyle.nodes.engine.tiles.denoise import TiledDenoiser, TiledRegion, denoise_tiles
from regionstyle.nodes.engine.tiles.grid import Fusion, TileGrid, tiles_at_once

SIZE, T, CFG = (8, 20), 0.4, 3.0

def expert(network, name, seed):
    fresh = init_lora(network, name, "", rank=4, alpha=4, layers=(".to_q", ".to_v", ".to_k", ".attn.qkv", "_attn.qkv"),
                      seed=seed)
    return ExpertWeights(Expert(name, {
        path: LoraLayer(layer.down, noise(*layer.up.shape, seed=seed) / 3, layer.scale)
        for path, layer in fresh.layers.items()
    }))

def mask_of(left, right):
    mask = torch.zeros(SIZE[0] * 8, SIZE[1] * 8)
    mask[:, left * 8 : right * 8] = 1
    return mask

def set_up(family):
    model = comfy_model(family)
    network = model.model.diffusion_model
    experts = [expert(network, name, seed) for seed, name in enumerate(("one", "two"), 1)]
    predictor = ComfyPredictor(attach_to_comfy(model, experts, Gates()), None, None, ComfyHost())
    texts = [predictor.from_conditioning(family_conditioning(family, seed)) for seed in range(3)]
    grid, length = TileGrid.over(SIZE, 8, 8), texts[0].states.shape[1]
    visible = torch.arange(length) < length - 4
    regions = []
    for text, name, mask in zip(texts, ("one", "two"), (mask_of(0, 9), mask_of(9, 20))):
        # the first keeps its words to itself: attention isolation
        own = RegionGate(mask, 0.9, visible_tokens=visible if name == "one" else None)
        regions.append(TiledRegion(mask, text, grid.touching(mask), texts[2], Gates({name: own})))
    return model, predictor, grid, regions

def alone(predictor, grid, regions, x):
    fusion = Fusion(grid, x.shape[1], 1, x.device)
    for region in regions:
        share = torch.nn.functional.avg_pool2d(region.mask[None, None], 8)[0, 0].clamp_min(1e-3)
        for row, column in region.corners:
            (name, gate), at = next(iter(region.gates.values.items())), slice(column, column + 8)
            pixels = gate.mask[:, column * 8 : column * 8 + 64]
            gates = Gates({name: RegionGate(pixels, gate.strength, visible_tokens=gate.visible_tokens)})
            clean = guided(predictor, x[..., at], T, region.text, region.negative, CFG, gates).denoised
            fusion.add((row, column), clean[0], share[:, at])
    return fusion.result()[None]

def trial(family):
    from dataclasses import replace

    model, predictor, grid, regions = set_up(family)
    network = model.model.diffusion_model
    plain = {key: value.clone() for key, value in network.state_dict().items()}
    x, calls, room = noise(1, COMFY_SHAPES[family][3], *SIZE, seed=7), [], [99]

    def watch(module, args, kwargs):
        rows = len(args[0] if args else kwargs["x"])
        if rows > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        calls.append(rows)

    hook = network.register_forward_pre_hook(watch, with_kwargs=True)
    with predictor.loaded():
        x = x.to(predictor.host.device)
        made = TiledDenoiser(predictor, grid, regions, CFG).predict(x, T).denoised
        at_once, wanted = list(calls), alone(predictor, grid, regions, x)
        bare = [replace(region, gates=Gates()) for region in regions]
        one_text = [replace(region, text=regions[0].text) for region in regions]
        open_ = [replace(region, gates=Gates({name: replace(gate, visible_tokens=None)
                                              for name, gate in region.gates.values.items()})) for region in regions]
        others = [TiledDenoiser(predictor, grid, each, CFG).predict(x, T).denoised for each in (bare, one_text, open_)]
        room[0] = 1
        split = TiledDenoiser(predictor, grid, regions, CFG).predict(x, T).denoised
        room[0] = 99
        calls.clear()

        def stop(module, args, output):
            management.interrupt_current_processing(True)

        stopping = network.register_forward_hook(stop)
        said = message(denoise_tiles, TiledDenoiser(predictor, grid, regions, CFG), x, partial_times(0.5, 3))
        stopping.remove()
        management.interrupt_current_processing(False)
    hook.remove()
    return {
        "error": far(made, wanted) / float(wanted.abs().max()), "split": far(made, split) / float(made.abs().max()),
        "experts, words, isolation": [far(made, other) for other in others], "cancelled": said, "until": len(calls),
        "rows": at_once, "tiles": [len(region.corners) for region in regions], "at once":
        tiles_at_once(predictor.native_size), "finite": bool(torch.isfinite(made).all()),
        "trace": all(torch.equal(value, plain[key]) for key, value in network.state_dict().items()),
    }

with torch.inference_mode():
    result = {family: trial(family) for family in FAMILIES}
print(json.dumps(result))
"""


def check(result: dict, families: list[str]) -> None:
    assert list(result) == families
    for family, made in result.items():
        assert made["finite"], family
        assert made["error"] < 1e-4, (family, made)
        assert made["split"] < 1e-4, (family, made)
        assert min(made["experts, words, isolation"]) > 1e-3, (family, made)
        assert made["tiles"] == [2, 2], family
        # positive and negative prompt of as many tiles as are worked on together
        assert sum(made["rows"]) == 2 * sum(made["tiles"]), (family, made)
        assert max(made["rows"]) <= 2 * made["at once"], (family, made)
        assert "Interrupt" in made["cancelled"], (family, made)
        assert made["until"] == 1, (family, made)
        assert made["trace"], family


def test_every_class(run_in_comfy):
    families = ["sd", "sdxl", "sd3", "sd35", "flux", "schnell"]
    check(run_in_comfy(MODELS + f"FAMILIES = {families!r}\n" + SCRIPT), families)


def test_the_oldest_version(run_in_old_comfy):
    families = ["sd", "v"]
    check(run_in_old_comfy(MODELS + f"FAMILIES = {families!r}\n" + SCRIPT), families)
