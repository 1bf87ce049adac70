"""The attention nodes in real ComfyUI on the tiny world: what they show while they run, and each mistake's sentence.

The nodes are called as ComfyUI calls them, in inference mode; what they show is caught where it would go to the server.
"""

import pytest

pytestmark = pytest.mark.slow
VERSIONS = ["run_in_comfy", "run_in_old_comfy"]

SCRIPT = """
import copy, json
import torch
import comfy.model_management as management, comfy.sample, comfy.utils
from regionstyle.nodes.engine.host import messages
from regionstyle.nodes.engine.region.region import Region
from regionstyle.nodes.engine.region.regions import Regions
from regionstyle.nodes.sampler.comfy import guidance_nodes as nodes
from regionstyle.nodes.tinyworld import comfy_tinyworld as tiny

PROMPT = "a red star in mosaic style and a blue ring"
SHOWN, PREVIEWS = [], []
messages._send = SHOWN.append
INTERRUPT = [None]

def hook(value, total, preview, *rest, **more):
    PREVIEWS.append(None if preview is None else preview[1].size)
    if INTERRUPT[0] is not None and value >= INTERRUPT[0]:
        management.interrupt_current_processing(True)
comfy.utils.set_progress_bar_global_hook(hook)

def message(call):
    try:
        call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        management.interrupt_current_processing(False)
        INTERRUPT[0] = None
    return "no error"

def square(top, left, bottom, right, side=128):
    mask = torch.zeros(side, side)
    mask[top:bottom, left:right] = 1
    return mask

LEFT, RIGHT = square(32, 0, 96, 64), square(32, 64, 96, 128)
EMPTY, FULL = torch.zeros(128, 128), torch.ones(128, 128)

def regions(*items):
    side = items[0][2].shape
    return Regions(tuple(Region(p, (0, 0, 1, 1), m, s) for p, s, m in items), *side)

TWO = regions(("red star", "mosaic", LEFT), ("blue ring", "", RIGHT))
model, clip, vae = tiny.load_model(), tiny.load_clip(), tiny.load_vae()
blank = {"samples": torch.zeros(1, 4, 16, 16)}
kept = {"samples": torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))}

def stranger():
    # The same MODEL around a network of a class that nobody knows.
    other = model.clone()
    other.model = copy.copy(model.model)
    other.model._modules = {**model.model._modules, "diffusion_model": torch.nn.Linear(2, 2)}
    return other

def guide(model=model, regions=TWO, prompt=PROMPT, **settings):
    chosen = {"form": "bias", "end": 0.5, "bias": 1.0, "step": 0.05, "repeats": 1, "stop": 0.0,
              "words": "style and thing", "attention": "logodds", "focus": 1.0, "cover": 1.0, "tau": 0.5, "kappa": 2.0}
    return nodes.AttentionGuidance.execute(model=model, clip=clip, regions=regions, prompt=prompt,
                                           **{**chosen, **settings})

def lock(mask=LEFT, source=kept, model=model, release=0):
    return nodes.BackgroundLock.execute(model=model, mask=mask, release=release, source=source)

def supervised(model=model, regions=TWO, prompt=PROMPT, latent=blank, locked=False, **settings):
    chosen = {"form": "bias", "end": 0.5, "bias": 1.0, "step": 0.05, "repeats": 1, "stop": 0.0,
              "words": "style and thing", "attention": "logodds", "focus": 1.0, "cover": 1.0, "tau": 0.5, "kappa": 2.0}
    return nodes.AttentionSampler.execute(
        model=model, clip=clip, regions=regions, prompt=prompt, latent_image=latent, negative="", seed=0, steps=4,
        cfg=2.0, sampler_name="euler", scheduler="simple", denoise=1.0, lock=locked, release=0,
        **{**chosen, **settings})

def looked(model=model, image=None, prompt=PROMPT, phrases="red star\\nmosaic", **settings):
    chosen = {"level": 0.5, "layers": "useful", "attention": "logodds", "draws": 2, "seed": 0}
    image = torch.rand(1, 64, 64, 3) if image is None else image
    return nodes.AttentionMap.execute(model=model, clip=clip, vae=vae, image=image, prompt=prompt, phrases=phrases,
                                      **{**chosen, **settings})

def encoded(words):
    return clip.encode_from_tokens_scheduled(clip.tokenize(words))

def as_in_nodes(*_):
    # What a sampler node's progress bar does in a server.
    management.throw_exception_if_processing_interrupted()

def sample(model, positive=None, latent=blank):
    samples = latent["samples"]
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    return comfy.sample.sample(model, noise, 4, 2.0, "euler", "simple", positive or encoded(PROMPT), encoded(""),
                               samples, disable_pbar=True, seed=0, callback=as_in_nodes)

def said(call):
    SHOWN.clear()
    call()
    return [text for text in SHOWN if text]

def warned(made):
    return None if made.ui is None else str(made.ui.as_dict())

def read_outs():
    out = {}
    guided = guide().args
    out["guided"] = said(lambda: sample(guided[0], guided[1]))
    PREVIEWS.clear()
    box = []
    out["sampler"] = said(lambda: box.append(supervised()))
    out["previews"] = list(PREVIEWS)
    latent, strip, curves, losses = box[0].args
    out["strip"], out["curves"], out["losses"] = list(strip.shape), list(curves.shape), losses
    out["ui"] = warned(box[0])
    out["colours"] = float(strip.std())
    masks, pictures, layers, tokens = looked(image=torch.rand(1, 61, 75, 3)).args
    out["map"] = [list(masks.shape), list(pictures.shape), layers, tokens, float(masks.min()), float(masks.max())]
    return out

def mistakes():
    out, plain = {}, sample(model)
    absent = regions(("green cat", "mosaic", LEFT))
    out["absent"] = [message(lambda: guide(regions=absent)), message(lambda: supervised(regions=absent)),
                     message(lambda: looked(phrases="green cat"))]
    out["no phrase"] = message(lambda: looked(phrases=" \\n"))
    for name, mask in (("empty", EMPTY), ("full", FULL)):
        without = regions(("red star", "mosaic", mask))
        made, sampled = guide(regions=without), supervised(regions=without)
        out[name] = {
            "guidance": [warned(made), made.args[0] is model],
            "lock": warned(lock(mask)), "locked": float((sample(lock(mask).args[0]) - plain).abs().max()),
            "source": float((sample(lock(mask).args[0]) - kept["samples"]).abs().max()),
            "sampler": [warned(sampled), float((sampled.args[0]["samples"] - plain).abs().max()), sampled.args[3]],
        }
    wide = torch.nn.functional.pad(LEFT, (0, 64))
    broad = regions(("red star", "mosaic", wide))
    made = guide(regions=broad)
    out["size"] = [message(lambda: sample(made.args[0], made.args[1])), message(lambda: supervised(regions=broad)),
                   message(lambda: sample(lock(wide).args[0]))]
    out["masks"] = message(lambda: sample(lock(LEFT[None].repeat(3, 1, 1)).args[0]))
    out["family"] = [message(lambda: guide(model=stranger())), message(lambda: supervised(model=stranger())),
                     message(lambda: looked(model=stranger()))]
    video = {"samples": torch.zeros(1, 4, 3, 16, 16)}
    out["video"] = message(lambda: sample(lock(source=None).args[0], latent=video))
    out["no source"] = message(lambda: supervised(locked=True))
    out["guided map"] = message(lambda: looked(model=guide().args[0]))
    out["layers"] = message(lambda: looked(layers="nowhere"))
    def cancelled(call, after):
        INTERRUPT[0] = after
        if after == 0:
            management.interrupt_current_processing(True)
        return message(call)
    made, locked = guide(), lock()
    out["cancelled"] = [cancelled(lambda: sample(made.args[0], made.args[1]), 0), cancelled(supervised, 2),
                        cancelled(lambda: sample(locked.args[0]), 0), cancelled(looked, 1)]
    network = model.model.diffusion_model
    out["hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
    out["after"] = torch.equal(sample(model), plain)
    out["works"] = [message(supervised), message(looked)]
    return out

with torch.inference_mode():
    result = {"shown": read_outs(), "mistakes": mistakes()}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def found(request):
    """found(version): what the script says, run once."""
    made = {}

    def once(version):
        if version not in made:
            made[version] = request.getfixturevalue(version)(SCRIPT)
        return made[version]

    return once


@pytest.mark.parametrize("version", VERSIONS)
def test_losses_and_attention_are_shown_at_every_step(found, version):
    shown = found(version)["shown"]
    assert [text.split(":")[0] for text in shown["guided"]] == [
        f"attention at {share}% of the steps" for share in (0, 25, 50, 75)
    ]
    steps = [text for text in shown["sampler"] if text.startswith("step")]
    assert [text.split(":")[0] for text in steps] == ["step 1", "step 2", "step 3", "step 4"]
    assert all("focus" in text and "cover" in text for text in steps)
    assert shown["previews"] == [[3 * 192, 192]] * 4, "a map of mosaic, red star and blue ring at each step"
    assert shown["strip"] == [1, 3 * 96, 4 * 96, 3]
    assert shown["colours"] > 0.05
    assert shown["losses"].count("\n") == 3
    assert "tokens" in shown["ui"]
    assert "step 4: focus" in shown["ui"]
    masks, pictures, layers, tokens, low, high = shown["map"]
    assert (masks, pictures) == ([2, 61, 75], [2, 61, 75, 3])
    assert "shown" in layers
    assert "[mosaic]" in tokens
    assert 0 <= low < high <= 1


@pytest.mark.parametrize("version", VERSIONS)
def test_an_absent_phrase_is_named_with_the_tokens(found, version):
    wrong = found(version)["mistakes"]
    for text in wrong["absent"]:
        assert text.startswith("RegionStyleError: phrase: got 'green cat'")
        assert "mosaic" in text
    assert "phrases: got none" in wrong["no phrase"]


@pytest.mark.parametrize("version", VERSIONS)
def test_masks_that_say_nothing_are_warnings(found, version):
    wrong = found(version)["mistakes"]
    for name, guidance, lock in (
        ("empty", "'red star': an empty mask, not guided", "the mask is empty: nothing will change"),
        ("full", "a mask that is the same everywhere", "the mask is full: nothing is held"),
    ):
        case = wrong[name]
        assert guidance in case["guidance"][0]
        assert case["guidance"][1], "the MODEL itself"
        assert lock in case["lock"]
        text, change, losses = case["sampler"]
        assert guidance in text
        assert change < 1e-5
        assert losses == ""
    assert wrong["empty"]["source"] == 0.0, "all of it is held"
    assert wrong["full"]["locked"] < 1e-5, "all of it is free"


@pytest.mark.parametrize("version", VERSIONS)
def test_masks_of_another_size_are_refused(found, version):
    wrong = found(version)["mistakes"]
    guidance, sampler, lock = wrong["size"]
    for text in (guidance, sampler):
        assert "regions: got pictures of 192 x 128, expected the shape of the latent, 16 x 16" in text
    assert "mask: got 192 x 128, expected the shape of the latent" in lock
    assert "mask: got 3 masks" in wrong["masks"]


@pytest.mark.parametrize("version", VERSIONS)
def test_other_networks_get_the_table(found, version):
    wrong = found(version)["mistakes"]
    guidance, sampler, look = wrong["family"]
    for text in (guidance, sampler):
        assert text.startswith("RegionStyleError: guidance: got a Linear")
        assert "gradient: SD1.5, SD2 and SDXL" in text
    assert look.startswith("RegionStyleError: network: got Linear, of another family")
    assert "Flux" in look
    assert "latent: got" in wrong["video"]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_does_not_fit_together_is_refused(found, version):
    wrong = found(version)["mistakes"]
    assert "source: got nothing, and an empty latent" in wrong["no source"]
    assert "model: got a guided one" in wrong["guided map"]
    assert "layers: got 'nowhere'" in wrong["layers"]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_node_can_be_cancelled_and_leaves_nothing(found, version):
    wrong = found(version)["mistakes"]
    assert all("Interrupt" in text for text in wrong["cancelled"]), wrong["cancelled"]
    assert wrong["hooks"] == 0
    assert wrong["after"]
    assert wrong["works"] == ["no error", "no error"]
