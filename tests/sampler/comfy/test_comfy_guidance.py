"""Guidance on ComfyUI's own samplers: all families and forms, in inference mode as in nodes.

Each script starts with `guidance_scripts.GUIDED` and ends in one line of JSON that the tests judge.
"""

import pytest
from family_scripts import cases
from guidance_scripts import GUIDED

pytestmark = pytest.mark.slow
ALL = ["sd", "v", "sdxl", "sd3", "flux"]
UNETS = ["sd", "v", "sdxl"]

FORMS = """
def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.model.modules())

def off(family, model):
    # Attention as it is, seen the same way: a bias of strength 0.
    made = guided(family, model, form="bias", bias=0.0)
    sample(family, made.model, made.positive)
    return [r.total for r in RECORDS]

def biased(family, model, base):
    out = {"off": off(family, model)}
    calls = [0]
    def other_pack(func, q, k, v, *args, **kwargs):
        calls[0] += 1
        return func(q, k, v, *args, **kwargs)
    def wrapper(executor, *args, **kwargs):
        calls[0] += 1000
        return executor(*args, **kwargs)
    from comfy.patcher_extension import WrappersMP
    theirs = model.clone()
    theirs.model_options["transformer_options"]["optimized_attention_override"] = other_pack
    theirs.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "other", wrapper)
    made = guided(family, theirs, form="bias", bias=2.0)
    result = sample(family, made.model.clone(), made.positive)
    out["on"] = [r.total for r in RECORDS]
    out["change"] = far(result, base)
    out["theirs"] = [calls[0] // 1000, calls[0] % 1000 > 0]
    again = sample(family, made.model, made.positive)
    out["again"] = torch.equal(again, result)
    pair = sample(family, made.model, made.positive, batch=2)
    out["batch"] = far(pair[:1], sample_of(family, made, pair))
    return out

def sample_of(family, made, pair):
    # The first of two latents, sampled alone from the same noise.
    channels = COMFY_SHAPES[family][3]
    latent = torch.zeros(1, channels, *SIZE)
    return comfy.sample.sample(made.model, noise(2, channels, *SIZE)[:1], 4, 3.0, "euler", "simple", made.positive,
                               family_conditioning(family, 1), latent, disable_pbar=True, seed=0)

def composed(family, model):
    # One step from noise to clean: what is blended are the predictions of the prompts themselves.
    made = guided(family, model, form="composition", end=1.0)
    got = sample(family, made.model, made.positive, steps=1)
    base, *parts = (sample(family, model, family_conditioning(family, seed), steps=1) for seed in (0, 1, 2))
    masks = torch.nn.functional.interpolate(torch.stack([item[2] for item in TWO])[:, None], SIZE, mode="area")
    expected = base * (1 - masks.sum(0)) + sum(part * mask for part, mask in zip(parts, masks))
    return {"error": far(got, expected), "size": float(expected.abs().max()), "change": far(got, base)}

def cancelled(family, model):
    made = guided(family, model, form="bias")
    def stop(step, *args):
        raise management.InterruptProcessingException()
    return message(lambda: sample(family, made.model, made.positive, callback=stop))

def one(family):
    model = comfy_model(family)
    base = sample(family, model)
    out = {"bias": biased(family, model, base), "composition": composed(family, model)}
    out["cancelled"] = cancelled(family, model)
    out["after"] = torch.equal(sample(family, model), base)
    out["hooks"] = hooks(model)
    return out

with torch.inference_mode():
    out = {family: one(family) for family in FAMILIES}
print(json.dumps(out))
"""

GRADIENTS = """
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.families.registry import family_of
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer

def with_expert(model):
    # An expert on every layer, convolutions too.
    network, layers = model.model.diffusion_model, {}
    for number, (path, place) in enumerate(family_of(network).layer_slices(network).items()):
        weight = getattr(network.get_submodule(place.module), "weight", None)
        if weight is not None and weight.ndim in (2, 4) and place.rows is None:
            down, up = noise(2, *weight.shape[1:], seed=number) * 0.02, noise(weight.shape[0], 2, seed=1000 + number)
            layers[path] = LoraLayer(down, up[..., None, None] if weight.ndim == 4 else up)
    return attach_to_comfy(model, [Expert("x", layers)], Gates({"x": 1.0}))

def experts(family, model):
    own = with_expert(model)
    plain = sample(family, own)
    still = guided(family, own, form="gradient", step=0.0)
    moved = guided(family, own, form="gradient", step=0.1)
    return [far(sample(family, still.model, still.positive), plain) / float(plain.abs().max()),
            far(sample(family, moved.model, moved.positive), plain), far(plain, sample(family, model))]

def checked(family):
    model, slopes = comfy_model(family), []
    base = sample(family, model)
    inner = comfy_guidance.descend
    def descend(x, loss_at, eta, settings, check):
        if not slopes:
            start = x.clone().requires_grad_()
            gradient, = torch.autograd.grad(loss_at(start).total, start)
            way = gradient / gradient.norm()
            with torch.no_grad():
                h = 2e-3 * float(x.norm())
                rise = float(loss_at(x + h * way).total.double() - loss_at(x - h * way).total.double()) / (2 * h)
            slopes.append([float((gradient * way).sum()), rise])
        return inner(x, loss_at, eta, settings, check)
    comfy_guidance.descend = descend
    flag = getattr(management, "in_training", None)
    parameters = [p.is_inference() for p in model.model.parameters()]
    out = {}
    try:
        for sampler in ("euler", "dpmpp_2m", "heun"):
            made = guided(family, model, form="gradient", step=0.0)
            sample(family, made.model, made.positive, sampler=sampler)
            before = [r.total for r in RECORDS]
            made = guided(family, model, form="gradient", step=0.1, repeats=2)
            result = sample(family, made.model, made.positive, sampler=sampler)
            out[sampler] = [before[0], RECORDS[0].total, bool(result.isfinite().all())]
    finally:
        comfy_guidance.descend = inner
    out["slopes"] = slopes[0]
    out["experts"] = experts(family, model)
    out["restored"] = [getattr(management, "in_training", None) == flag,
                       [p.is_inference() for p in model.model.parameters()] == parameters]
    out["after"] = torch.equal(sample(family, model), base)
    return out

with torch.inference_mode():
    out = {family: checked(family) for family in FAMILIES}
print(json.dumps(out))
"""

MISTAKES = """
family = "sd"
def wrong():
    model = comfy_model(family)
    out, empty, full = {}, torch.zeros(80, 112), torch.ones(80, 112)
    made = guided(family, model, form="bias")
    out["other prompt"] = message(sample, family, made.model, family_conditioning(family, 5))
    out["size"] = message(lambda: sample(family, made.model, made.positive, size=(16, 8)))
    out["twice"] = message(lambda: guided(family, made.model))
    out["absent"] = message(lambda: guided(family, model, regions_of(("green cat", "mosaic", square()))))
    flow = comfy_model("flux")
    out["flux"] = message(lambda: guided("flux", flow, form="gradient"))
    out["no style"] = message(lambda: guided(family, model, regions_of(("blue ring", "", square())), words="style"))
    nothing = guided(family, model, regions_of(("red star", "mosaic", empty)))
    out["empty"] = [nothing.warning, nothing.model is model]
    everywhere = guided(family, model, regions_of(("red star", "mosaic", full)))
    out["full"] = [everywhere.warning, everywhere.model is model]
    some = guided(family, model, regions_of(("red star", "mosaic", empty), ("blue ring", "", square())))
    out["some"] = [some.warning, some.model is model]
    area = [[made.positive[0][0], {**made.positive[0][1], "area": (4, 4, 0, 0), "strength": 1.0}]]
    out["area"] = message(sample, family, made.model, area)
    class Other(torch.nn.Module):
        pass
    stranger = model.clone()
    stranger.model = torch.nn.Module()
    stranger.model.diffusion_model = Other()
    out["stranger"] = message(lambda: guided(family, stranger))
    predictor = ComfyPredictor(made.model, None, None, ComfyHost())
    text = predictor.from_conditioning(family_conditioning(family))
    out["outside"] = message(predictor.predict, noise(1, 4, *SIZE), 0.5, text)
    # What SamplerCustomAdvanced calls, with a sampler and noise levels of its own.
    guider = comfy.samplers.CFGGuider(made.model)
    guider.set_conds(made.positive, family_conditioning(family, 1))
    guider.set_cfg(3.0)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", 4)
    euler, empty_latent = comfy.samplers.sampler_object("euler"), torch.zeros(1, 4, *SIZE)
    custom = guider.sample(noise(1, 4, *SIZE), empty_latent, euler, sigmas, disable_pbar=True, seed=0)
    out["guider"] = far(custom, sample(family, made.model, made.positive))
    longer = [[noise(1, 154, 64), {"pooled_output": noise(1, 64)}]]
    long = comfy.sample.sample(made.model, noise(1, 4, *SIZE), 2, 3.0, "euler", "simple", made.positive, longer,
                               torch.zeros(1, 4, *SIZE), disable_pbar=True, seed=0)
    out["longer"] = [bool(long.isfinite().all()), len(RECORDS)]
    return out

with torch.inference_mode():
    out = wrong()
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def guided(request):
    """guided(version, script, families): what the script says, run once."""
    made = {}

    def once(version, script, families):
        key = version, script
        if key not in made:
            try:
                made[key] = request.getfixturevalue(version)(f"FAMILIES = {families!r}\n" + GUIDED + script)
            except AssertionError as error:
                made[key] = error
        if isinstance(made[key], AssertionError):
            raise made[key]
        return made[key]

    return once


@pytest.mark.parametrize(("version", "families", "family"), cases(ALL, ALL))
def test_bias_turns_attention_and_leaves_others_alone(guided, version, families, family):
    found = guided(version, FORMS, families)[family]
    bias = found["bias"]
    assert len(bias["on"]) == len(bias["off"]) == 4, "one record a step"
    assert bias["on"][0] < bias["off"][0] - 0.005
    assert bias["on"][1] < bias["off"][1]
    assert bias["change"] > 1e-4
    assert bias["theirs"][0] >= 4
    assert bias["theirs"][1], "the other pack's override was not called"
    assert bias["again"]
    assert bias["batch"] < 1e-2 * max(1.0, bias["change"])
    assert "Interrupt" in found["cancelled"]
    assert found["after"]
    assert found["hooks"] == 0


@pytest.mark.parametrize(("version", "families", "family"), cases(ALL, ALL))
def test_composition_is_the_blend_of_the_prompts_own_predictions(guided, version, families, family):
    found = guided(version, FORMS, families)[family]["composition"]
    assert found["change"] > 1e-2 * found["size"]
    assert found["error"] < 1e-4 * found["size"]


@pytest.mark.parametrize(("version", "families", "family"), cases(UNETS, UNETS))
def test_gradients_agree_with_finite_differences_and_lower_the_loss(guided, version, families, family):
    found = guided(version, GRADIENTS, families)[family]
    gradient, difference = found["slopes"]
    assert gradient > 0
    assert gradient == pytest.approx(difference, rel=2e-2)
    for sampler in ("euler", "dpmpp_2m", "heun"):
        before, after, finite = found[sampler]
        assert after < before, sampler
        assert finite
    same, moved, style = found["experts"]
    assert same < 1e-4, "with an expert, looking at the gradient changes nothing"
    assert moved > 1e-2
    assert style > 1e-3
    assert all(found["restored"])
    assert found["after"]


@pytest.mark.parametrize("version", ["run_in_comfy", "run_in_old_comfy"])
def test_mistakes_have_one_sentence(guided, version):
    found = guided(version, MISTAKES, [])
    assert "positive: got another prompt" in found["other prompt"]
    assert "regions: got pictures of 112 x 80, expected the shape of the latent, 8 x 16" in found["size"]
    assert "guided already" in found["twice"]
    assert "phrase: got 'green cat'" in found["absent"]
    assert "mosaic" in found["absent"], "the prompt's tokens are shown"
    assert "'style' for 'blue ring'" in found["no style"]
    assert found["empty"] == ["'red star': an empty mask, not guided\nnothing is guided", True]
    assert found["full"] == ["'red star': a mask that is the same everywhere, not guided\nnothing is guided", True]
    assert found["some"] == ["'red star': an empty mask, not guided", False]
    assert "latent: got a part of" in found["area"]
    assert "gradient: SD1.5, SD2 and SDXL" in found["stranger"], "the table"
    assert "gradient" in found["flux"]
    assert "bias" in found["flux"], "what it can do instead"
    assert "outside of a sampler" in found["outside"]
    assert found["longer"][0]
    assert found["guider"] < 1e-4
