"""Edit by Words in ComfyUI gives what the diffusers host gives, and refuses what it was not taught; both versions."""

import pytest

SCRIPT = """
import torch
from regionstyle.nodes.app.comfyui.words import edit_pictures
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.tinyworld import bundled, comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.editing import bundled_adapter, edit_by_words
from regionstyle.nodes.tinyworld.settings import WordsEditSettings
from regionstyle.nodes.tinyworld.world import scene

with torch.inference_mode():
    made = scene(102, split="held-out")
    image = torch.from_numpy(made.image)[None]
    phrase = made.objects[0].phrase
    absent = next(f"green {s}" for s in ("ring", "cross") if all(s != thing.shape for thing in made.objects))
    model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
    settings = WordsEditSettings(steps=2, cfg=2.0, seed=3)

    def run(words, picture=image, composite=False, strict=False, model=model):
        return edit_pictures(model, clip, vae, picture, words, settings, composite=composite, strict=strict)

    def error(*args, **options):
        try:
            run(*args, **options)
        except RegionStyleError as error:
            return str(error)

    theirs = run(f"make the {phrase} mosaic")
    ours = bundled.load_predictor(LocalHost("cpu"))
    own = edit_by_words(ours, bundled_adapter(ours.network), image.movedim(-1, 1), [(phrase, "mosaic")], settings)
    kept = run(f"make the {phrase} mosaic", composite=True)
    nothing = run(f"make the {absent} mosaic")
    network = tiny.load_model()
    with torch.inference_mode(False):
        network.model.diffusion_model.input_blocks[0][0].weight.data += 0.1
    result = {
        "difference": float((theirs.image.movedim(-1, 1) - own.images).abs().max()),
        "shapes": [list(part.shape) for part in (theirs.image, theirs.attention, theirs.where)],
        "said": theirs.warning,
        "kept": float((kept.image == image).all(-1).float().mean()),
        "kept said": kept.warning,
        "nothing": bool(torch.equal(nothing.image, image)) and float(nothing.where.max()) == 0,
        "nothing said": nothing.warning,
        "strict": error(f"make the {absent} mosaic", strict=True),
        "stays": run(f"make the {phrase} mosaic and keep the cat").warning,
        "unknown": error("make the dragon mosaic"),
        "empty": error(""),
        "size": error(f"make the {phrase} mosaic", picture=image[:, :64]),
        "other": error(f"make the {phrase} mosaic", model=network),
        "two pictures": list(run(f"make the {phrase} mosaic", picture=image.repeat(2, 1, 1, 1)).image.shape),
    }
print(json.dumps(result))
"""


def check(result: dict) -> None:
    assert result["difference"] < 2e-3
    assert result["shapes"] == [[1, 128, 128, 3], [1, 128, 128, 3], [1, 128, 128]]
    assert "drawn anew" in result["said"]
    assert 0.5 < result["kept"] < 1
    assert "drawn anew" not in result["kept said"]
    assert "cat: the model is not told what stays" in result["stays"]
    assert "not told" not in result["said"] + result["kept said"]
    assert result["nothing"]
    assert "green" in result["nothing said"]
    assert "green" in result["strict"]
    assert "the thing 'dragon'" in result["unknown"]
    assert result["empty"]
    assert "image: got 128 x 64 pixels" in result["size"]
    assert "another model" in result["other"]
    assert result["two pictures"] == [2, 128, 128, 3]


@pytest.mark.slow
def test_both_hosts_agree(run_in_comfy):
    check(run_in_comfy(SCRIPT))


@pytest.mark.slow
def test_both_hosts_agree_on_the_oldest_version(run_in_old_comfy):
    check(run_in_old_comfy(SCRIPT))


NOVRAM = """
import torch
import comfy.model_management as management, comfy.sd, comfy.utils
from regionstyle.nodes.engine.host.comfy import ComfyHost
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor
from regionstyle.nodes.tinyworld import bundled, comfy_tinyworld as tiny
from regionstyle.nodes.tinyworld.editing import bundled_adapter, edit_by_words
from regionstyle.nodes.tinyworld.settings import WordsEditSettings
from regionstyle.nodes.tinyworld.world import scene

def novram():
    '''As under --novram on a GPU: nothing of a network stays on the device, LoRAs are added as each layer runs.'''
    management.unload_all_models()
    management.is_device_cpu = lambda device: False
    management.vram_state = management.vram_set_state = management.VRAMState.NO_VRAM
    management.get_free_memory = lambda device=None, torch_free_too=False: (1, 1) if torch_free_too else 1

with torch.inference_mode():
    made = scene(102, split="held-out")
    image, phrase = torch.from_numpy(made.image).movedim(-1, 0)[None], made.objects[0].phrase
    clip, vae = tiny.load_clip(), tiny.load_vae()
    lora = comfy.utils.load_torch_file(str(bundled.expert_path("neon")))

    def styled():
        return comfy.sd.load_lora_for_models(tiny.load_model(), None, lora, 0.5, 0)[0]

    def edited(model):
        predictor, settings = ComfyPredictor(model, clip, vae, ComfyHost()), WordsEditSettings(steps=1, cfg=2.0, seed=3)
        adapter = bundled_adapter(predictor.network)
        out = edit_by_words(predictor, adapter, image, [(phrase, "mosaic")], settings)
        return torch.cat([part.flatten() for part in (out.images, out.attention, out.where)])

    expected = edited(styled())
    novram()
    model = styled()
    far = lambda one, other: float((one - other).abs().max())
    result = {"novram": far(edited(model), expected), "effect": far(expected, edited(tiny.load_model()))}
    result["left"] = [model.loaded_size(), model.lowvram_patch_counter()]
print(json.dumps(result))
"""


@pytest.mark.slow
def test_a_model_of_which_nothing_stays_on_the_device_is_edited_alike(run_in_comfy):
    result = run_in_comfy(NOVRAM)
    assert result["novram"] < 1e-4 < 1e-2 < result["effect"]
    loaded, patches = result["left"]
    assert loaded == 0, "something of the network stayed loaded"
    assert patches > 0, "no LoRA is added as layers run"
