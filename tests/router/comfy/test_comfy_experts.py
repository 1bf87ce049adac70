"""The expert node in real ComfyUI: the same effect as the stock LoRA loader, and no trace on the model it was given."""

from types import SimpleNamespace

import pytest
import torch

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.router.comfy.experts import check_gate_batches, region_gates, restyle_batch
from regionstyle.nodes.router.settings import RestyleSettings

SCRIPT = """
from dataclasses import replace
import torch
import comfy.sd, comfy.utils, folder_paths
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.host.compiled import original_network
from regionstyle.nodes.engine.lora.init import init_lora
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.router.comfy.experts import (
    _share_inverted, attach, expert_choices, missing_expert, region_gates, restyle_batch)
from regionstyle.nodes.router.restyle import restyle_region
from regionstyle.nodes.router.settings import RestyleSettings
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny, bundled
from regionstyle.nodes.tinyworld.world import scene

tiny.register_experts()
FILE = "tinyworld/mosaic.safetensors"
result = {"listed": FILE in expert_choices(), "elsewhere": FILE in folder_paths.get_filename_list("loras")}
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
    lora = comfy.utils.load_torch_file(str(bundled.expert_path("mosaic")))
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
    settings = RestyleSettings(strength=0.2, steps=2, cfg=1.0, feather=0)
    made = restyle_batch(ours, clip, vae, image, mask, "a picture in mosaic style", "", settings)
    result |= {"batch": list(made.image.shape), "notice": made.notice,
               "warning": made.warning,
               "empty": bool(torch.equal(made.image[0], image[0])),
               "outside": bool(torch.equal(made.image[1][mask[1] == 0], image[1][mask[1] == 0])),
               "inside": float((made.image[1] - image[1])[mask[1] == 1].abs().mean())}
    large = torch.nn.functional.interpolate(image[:1].movedim(-1, 1), (160, 330)).movedim(1, -1)
    region = torch.zeros(1, 160, 330); region[:, 10:150, 20:300] = 1
    one = RestyleSettings(strength=0.2, steps=1, cfg=1.0, feather=0)
    tiled = restyle_batch(ours, clip, vae, large, region, "a picture in mosaic style", "", one)
    predictor = ComfyPredictor(ours, clip, vae, ComfyHost())
    with predictor.loaded():
        by_hand = {share: restyle_region(predictor, large.movedim(-1, 1), region[0], "a picture in mosaic style",
                                         gate=region_gates(ours, 0), settings=replace(one, inverted=share)).image
                   for share in (0.0, 1.0)}
    result |= {f"inverted_{share:.0f}": bool(torch.equal(made.movedim(1, -1), tiled.image))
               for share, made in by_hand.items()}
    network = original_network(model.model.diffusion_model)
    shares = {"shipped": ours, "off": off}
    for strength in (0.0, 1.0):
        another = init_lora(network, "x", "oil", rank=2, layers="all", seed=0)
        shares[f"another at {strength:.0f}"] = attach_to_comfy(ours, [another], Gates({"x": strength}))
    result["shares"] = {name: _share_inverted(one_model, one) for name, one_model in shares.items()}
    result |= {"tiled": tiled.notice, "tiled_warning": tiled.warning,
               "tiled_outside": bool(torch.equal(tiled.image[region == 0], large[region == 0])),
               "tiled_inside": float((tiled.image - large)[region == 1].abs().mean())}
    anew = replace(one, strength=0.8, detail="full")
    drawn = [restyle_batch(ours, clip, vae, large, region, "a picture in mosaic style", "", replace(anew, seed=seed))
             for seed in (0, 1)]
    result |= {"seeds": bool(torch.equal(drawn[0].image, drawn[1].image)), "anew": drawn[0].notice}
    smear = RestyleSettings(strength=0.2, steps=1, cfg=1.0, detail="native")
    result["smear"] = restyle_batch(ours, clip, vae, large, region, "a picture in mosaic style", "", smear).warning
    result["names"] = [missing_expert(name) for name in (None, FILE, "tinyworld/none.safetensors")]
    try:
        attach(model, "tinyworld/none.safetensors", 1.0, None)
    except ValueError as error:
        result["missing"] = str(error)
    try:
        restyle_batch(attach(model, FILE, 1.0, torch.ones(3, 8, 8))[0], clip, vae, image, mask, "a", "", settings)
    except ValueError as error:
        result["three"] = str(error)
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["listed"]
    assert not result["elsewhere"], "the shipped LoRAs fill the lists of other packs' loaders"
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
    assert result["notice"] == "restyled 1 of 2"
    assert result["warning"] == "empty mask, unchanged: image 0"
    own = " from the picture's own noise, in which seed has no part"
    assert result["tiled"] == f"restyled 1 of 1, in tiles at full size{own}"
    assert not result["seeds"]
    assert result["anew"] == "restyled 1 of 1, in tiles at full size"
    assert result["tiled_warning"] == ""
    assert result["shares"] == {"shipped": 1.0, "off": 0.0, "another at 0": 1.0, "another at 1": 0.0}
    assert result["inverted_1"], "a shipped expert's tiles start from the picture's own noise"
    assert not result["inverted_0"]
    assert result["tiled_outside"]
    assert result["tiled_inside"] > 0.01
    assert "enlarged 2.6 times" in result["smear"]
    assert "none.safetensors" in result["missing"]
    assert result["names"][:2] == [True, True]
    assert "none.safetensors" in result["names"][2]
    assert "got 3 entries, expected 1 or 2" in result["three"]


@pytest.mark.slow
def test_experts_in_comfy(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_experts_in_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))


def model_with(gates):
    """What `restyle_batch` may look at before it begins: the gates and nothing else."""
    return SimpleNamespace(get_attachment=lambda key: SimpleNamespace(gates=gates, weights=[]))


WORDS = torch.zeros(2, 5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (RegionGate(torch.ones(2, 8, 8)), "mask of 'oil'"),
        (torch.ones(2, 8, 8), "mask of 'oil'"),
        (torch.ones(2), "gate of 'oil'"),
        (RegionGate(torch.ones(8, 8), 1.0, WORDS), "owned_tokens of 'oil'"),
    ],
)
def test_gates_of_another_batch_are_refused_before_any_work(gate, name):
    image, mask = torch.zeros(3, 16, 16, 3), torch.ones(3, 16, 16)
    with pytest.raises(RegionStyleError, match=f"{name}: got 2 entries, expected 1 or 3"):
        restyle_batch(model_with(Gates({"oil": gate})), None, None, image, mask, "a", "", RestyleSettings())
    check_gate_batches(Gates({"oil": gate}), 2)
    with pytest.raises(RegionStyleError, match=name):
        check_gate_batches(Gates({"oil": gate}), 1)


def test_each_picture_has_its_own_gate_inside_the_region():
    masks = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    region = torch.full((1, 8, 8), 0.5)
    gates = Gates({"oil": masks, "ink": torch.tensor([0.2, 0.7]), "wax": 2.0}, pooled="off", shared_text="off")
    for at in (0, 1):
        made = region_gates(model_with(gates), at)(region, lambda mask: mask)
        assert torch.equal(made.values["oil"].mask, region * masks[at])
        assert made.values["ink"].strength == pytest.approx([0.2, 0.7][at])
        assert made.values["wax"].strength == 2
        assert (made.pooled, made.shared_text) == ("off", "off")
