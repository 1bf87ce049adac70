"""Model families in ComfyUI: sampling as ComfyUI's own samplers do, and the same network in diffusers."""

import pytest
from family_scripts import IN_DIFFUSERS, NEW, cases, each_family_once

pytestmark = pytest.mark.slow


SAMPLING = """
import comfy.samplers
from dataclasses import replace
from regionstyle.nodes.engine.families.registry import families
from regionstyle.nodes.engine.predictor.base import Extras
from regionstyle.nodes.engine.predictor.sampling import ddim

TIMES = [0.9, 0.6, 0.3, 0.05, 0.0]
SIZE = (8, 10)

def sampled(model, start, positive, negative, sigmas):
    # What ComfyUI's own sampler makes of the same conditionings: the latent inside it at the end.
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(3.0)
    result = guider.sample(start, torch.zeros_like(start), comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
    return model.model.process_latent_in(result)

def against_sampler(family):
    model = comfy_model(family)
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    positive, negative = family_conditioning(family), family_conditioning(family, seed=1)
    start = noise(2, COMFY_SHAPES[family][3], *SIZE)
    alpha, sigma = predictor.alpha_sigma(torch.tensor(TIMES, dtype=torch.float64))
    flow = family in ("sd3", "sd35", "flux", "schnell")
    sigmas = (sigma if flow else sigma / alpha).float()
    sigmas[-1] = 0  # ddim's last step gives the clean latent, too
    theirs = sampled(model, start, positive, negative, sigmas)
    # At its first level ComfyUI's sampler starts from sigma * noise.
    first = start * float(sigma[0])
    texts = [predictor.from_conditioning(c) for c in (positive, negative)]
    with predictor.loaded():
        ours = ddim(predictor, first, TIMES, texts[0], negative=texts[1], cfg=3.0)
    return [far(ours, theirs), float(theirs.abs().max()), far(ours, first)]

def extras(family, given, cond):
    # Told through Text.extras, and as ComfyUI's nodes write them into a conditioning.
    predictor = ComfyPredictor(comfy_model(family), None, None, ComfyHost())
    plain = family_conditioning(family)
    text = predictor.from_conditioning(plain)
    x = noise(1, COMFY_SHAPES[family][3], *SIZE)
    told = predictor.predict(x, 0.5, replace(text, extras=given)).eps
    native = predictor.from_conditioning([[states, {**extra, **cond}] for states, extra in plain])
    both = replace(text + predictor.from_conditioning(family_conditioning(family, seed=1)), extras=given)
    return {
        "same": far(told, predictor.predict(x, 0.5, native).eps),
        "apart": far(told, predictor.predict(x, 0.5, text).eps),
        "batch": far(told, predictor.predict(x.repeat(2, 1, 1, 1), 0.5, both).eps[:1]),
    }

def refused(family, given):
    predictor = ComfyPredictor(comfy_model(family), None, None, ComfyHost())
    text = replace(predictor.from_conditioning(family_conditioning(family)), extras=given)
    return message(predictor.predict, noise(1, COMFY_SHAPES[family][3], *SIZE), 0.5, text)

def accepted(family):
    network = comfy_model(family).model.diffusion_model
    return [known.name for known in families() if known.accepts(network)]

with torch.inference_mode():
    out = {family: against_sampler(family) for family in FAMILIES}
    out["accepted"] = {family: accepted(family) for family in FAMILIES}
    if "sdxl" in FAMILIES:
        sizes = {"height": 512, "width": 768, "crop_h": 16, "crop_w": 32, "target_height": 640, "target_width": 896}
        given = Extras(original=(512, 768), crop=(16, 32), target=(640, 896))
        out["sizes"] = extras("sdxl", given, sizes)
        out["guidance"] = extras("flux", Extras(guidance=2.0), {"guidance": 2.0})
        out["refused"] = [refused("sd", given), refused("schnell", Extras(guidance=2.0)), refused("flux", given)]
print(json.dumps(out))
"""

DIFFUSERS = """
from dataclasses import replace
import comfy.model_detection
import comfy.utils
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Extras

class Vae:
    class config:
        block_out_channels = (1, 2, 3, 4)

def converted(family, model, network):
    # The conversion writes in place.
    state = {key: value.clone() for key, value in network.state_dict().items()}
    if family == "sdxl":
        table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
        return {table[key]: value for key, value in state.items()}
    result = comfy.model_detection.convert_diffusers_mmdit(state)
    assert not state or set(state) <= {"pos_embed.pos_embed"}, list(state)
    if family.startswith("sd3"):
        result["pos_embed"] = network.pos_embed.pos_embed
    return result

def compare(family):
    network, model = diffusers_network(family), comfy_model(family)
    missing = model.model.diffusion_model.load_state_dict(converted(family, model, network), strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys, missing
    theirs = DiffusersPredictor(network, Vae, None, None, diffusers_scheduler(family), LocalHost("cpu"))
    ours = ComfyPredictor(model, None, None, ComfyHost())
    given = {"sdxl": Extras(original=(512, 768), crop=(16, 32), target=(640, 896)), "flux": Extras(guidance=2.0)}
    text, found = ours.from_conditioning(family_conditioning(family)), []
    for t in (0.0, 0.25, 0.75, 1.0, torch.tensor([0.2, 0.6])):
        for size in ((16, 12), (9, 14)) if family != "sdxl" else ((16, 12),):
            for told in {Extras(), given.get(family, Extras())}:
                x, same = noise(2, COMFY_SHAPES[family][3], *size), replace(text, extras=told)
                a, b = ours.predict(x, t, same), theirs.predict(x, t, same)
                found.append([far(a.eps, b.eps), far(a.denoised, b.denoised) / float(b.denoised.abs().max())])
    return [max(e for e, _ in found), max(d for _, d in found), float(a.eps.std())]

with torch.inference_mode():
    out = {family: compare(family) for family in FAMILIES}
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def run(request):
    """run(version, script, families): what the script says, run once for all tests."""
    return each_family_once(request)


@pytest.mark.parametrize(("version", "families", "family"), cases())
def test_sampling_is_comfyui_s_own(run, version, families, family):
    difference, size, moved = run(version, SAMPLING, families)[family]
    assert moved > 0.1
    assert difference < 2e-4 * size


@pytest.mark.comfy
def test_one_family_accepts_a_network(run):
    names = ["SD1.5", "SD1.5", "SDXL", "SD3", "SD3", "FLUX", "FLUX"]
    expected = {family: [name] for family, name in zip(NEW, names, strict=True)}
    assert run("run_in_comfy", SAMPLING, NEW)["accepted"] == expected


@pytest.mark.comfy
@pytest.mark.parametrize("what", ["sizes", "guidance"])
def test_what_is_told_beside_the_words_arrives(run, what):
    found = run("run_in_comfy", SAMPLING, NEW)[what]
    assert found["same"] == 0
    assert found["apart"] > 1e-4
    assert found["batch"] < 1e-5


@pytest.mark.comfy
def test_what_would_not_be_read_is_refused(run):
    for refusal in run("run_in_comfy", SAMPLING, NEW)["refused"]:
        assert refusal.startswith("RegionStyleError: text.extras")


@pytest.mark.parametrize(("version", "families", "family"), cases(IN_DIFFUSERS, []))
def test_the_same_network_in_diffusers(run, version, families, family):
    eps, denoised, size = run(version, DIFFUSERS, families)[family]
    assert size > 0.1
    assert eps < 2e-3  # at t = 0 ComfyUI's clean latent determines eps to float32's rounding over sigma = 0.03
    assert denoised < 1e-4
