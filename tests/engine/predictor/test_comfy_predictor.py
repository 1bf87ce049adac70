"""The ComfyUI predictor on tiny random models, inside ComfyUI's interpreter, in inference mode as in nodes.

Each script starts with `comfy_models.py` and ends in one line of JSON: numbers and messages that the tests judge.
"""

from pathlib import Path

import pytest

from comfy_script import each_once

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()
VERSIONS = ["run_in_comfy", "run_in_old_comfy"]

PREDICTIONS = """
class Oracle(torch.nn.Module):
    # A network that knows x0. ComfyUI gives it the variance-preserving x, or x itself for flow.
    dtype = torch.float32

    def __init__(self, kind, x0, table):
        super().__init__()
        self.kind, self.x0, self.table = kind, x0, table

    def forward(self, x, steps, **kwargs):
        self.seen = x
        if self.kind == "flow":
            return (x - self.x0) / (steps / 1000).reshape(-1, 1, 1, 1)
        assert torch.equal(steps, steps.round())
        ratio = self.table[steps.long()].reshape(-1, 1, 1, 1)
        alpha = 1 / (1 + ratio**2).sqrt()
        eps = (x - alpha * self.x0) / (alpha * ratio)
        return eps if self.kind == "eps" else alpha * eps - alpha * ratio * self.x0

def predictions(kind):
    model = sd3_model() if kind == "flow" else sd_model(v=kind == "v")
    channels = 16 if kind == "flow" else 4
    x0, eps = noise(2, channels, 8, 8), noise(2, channels, 8, 8, seed=1)
    table = model.get_model_object("model_sampling").sigmas.clone()
    model.model.diffusion_model = Oracle(kind, x0, table)
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    width, pooled = (4096, 2048) if kind == "flow" else (64, 64)
    text = predictor.from_conditioning(conditioning(width=width, pooled=pooled))
    found = []
    for t in (0.001, 0.25, 0.9, torch.tensor([0.1, 0.7])):
        x = predictor.add_noise(x0, eps, t)
        result = predictor.predict(x, t, text)
        found.append([far(result.eps, eps), far(result.denoised, x0), far(model.model.diffusion_model.seen, x)])
    return found

def schedule():
    model = sd_model()
    predictor, sampling = ComfyPredictor(model, None, None, ComfyHost()), model.get_model_object("model_sampling")
    t = torch.rand(50) * 0.999
    alpha, sigma = predictor.alpha_sigma(t)
    ratio = torch.stack([sampling.sigma(v * 1000) for v in t])
    return [float(((sigma / alpha) / ratio - 1).abs().max()), float((alpha**2 + sigma**2 - 1).abs().max())]

with torch.inference_mode():
    out = {kind: predictions(kind) for kind in ("eps", "v", "flow")}
    out["schedule"] = schedule()
print(json.dumps(out))
"""

NETWORK = """
def same_as_diffusers():
    import comfy.utils
    from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
    from regionstyle.nodes.engine.host.base import LocalHost
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    unet = fill(UNet2DConditionModel(sample_size=16, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64, attention_head_dim=4, norm_num_groups=32), seed=3)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                        up_block_types=("UpDecoderBlock2D",) * 4)
    theirs = DiffusersPredictor(unet, vae, None, None, scheduler, LocalHost("cpu"))
    model = sd_model()
    table = comfy.utils.unet_to_diffusers(UNET)
    model.model.diffusion_model.load_state_dict({table[k]: v for k, v in unet.state_dict().items()})
    ours = ComfyPredictor(model, None, None, ComfyHost())
    text, x, differences = ours.from_conditioning(conditioning()), noise(2, 4, 16, 16), []
    for t in (0.0, 0.3217, 0.75, 1.0, torch.tensor([0.2, 0.6])):
        a, b = ours.predict(x, t, text), theirs.predict(x, t, text)
        differences += [far(a.eps, b.eps), far(a.denoised, b.denoised) / float(b.denoised.abs().max())]
    return max(differences), float(a.eps.std())

def pair():
    predictor = ComfyPredictor(sd_model(), None, None, ComfyHost())
    x, text, other = noise(2, 4, 16, 16), conditioning(), conditioning(seed=1)
    text, other = predictor.from_conditioning(text), predictor.from_conditioning(other)
    both = predictor.predict_pair(x, 0.5, text, other)
    single = [predictor.predict(x, 0.5, text), predictor.predict(x, 0.5, other)]
    each = predictor.predict(x, 0.5, text + other)
    return {"pair": [far(a.eps, b.eps) for a, b in zip(both, single)], "apart": far(both[0].eps, both[1].eps),
            "each": [far(each.eps[:1], single[0].eps[:1]), far(each.eps[1:], single[1].eps[1:])],
            "device": str(both[0].eps.device)}

def patches():
    # Injection, wrapper and callbacks act, gates arrive, and everything is put back, also after an error.
    from comfy.model_patcher import PatcherInjection
    from comfy.patcher_extension import CallbacksMP, WrappersMP
    from regionstyle.nodes.engine.adapters.gates import Gates

    log, seen = [], []
    base = sd_model()
    model = base.clone()
    layer = model.model.diffusion_model.out[2]
    original = layer.forward
    inject = lambda patcher: setattr(layer, "forward", lambda *a: log.append("layer") or original(*a))
    eject = lambda patcher: layer.__dict__.pop("forward", None)
    model.set_injections("regionstyle.test", [PatcherInjection(inject, eject)])

    def wrapper(executor, x, t, *arguments, **kwargs):
        options = next(a for a in (*arguments, *kwargs.values()) if isinstance(a, dict) and "cond_or_uncond" in a)
        seen.append([len(x), options["cond_or_uncond"], options.get("regionstyle_gates")])
        return executor(x, t, *arguments, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", wrapper)
    for name in ("ON_PRE_RUN", "ON_CLEANUP"):
        model.add_callback_with_key(getattr(CallbacksMP, name), "test", lambda p, *a, n=name: log.append(n))
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text, gates = predictor.from_conditioning(conditioning()), Gates({"oil": 1.0})
    with predictor.loaded():
        predictor.predict_pair(noise(1, 4, 16, 16), 0.5, text, text, gates)
        predictor.predict(noise(1, 4, 16, 16), 0.5, text)
    first, log[:] = list(log), []

    class Broken(Exception):
        pass

    def broken(executor, *a, **k):
        raise Broken("in the middle")

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "broken", broken)
    error = message(predictor.predict, noise(1, 4, 16, 16), 0.5, text)
    plain = ComfyPredictor(base, None, None, ComfyHost())
    refused = message(plain.predict, noise(1, 4, 16, 16), 0.5, text, gates)
    return {"log": first, "after error": log, "error": error, "seen": [[n, sorted(c), g is gates] for n, c, g in seen],
            "patcher": model.model.current_patcher is None, "refused": refused,
            "options": "regionstyle_gates" in model.model_options["transformer_options"]}

def refusals():
    import comfy.model_sampling as sampling
    from comfy.model_base import ModelType

    class Continuous(sampling.ModelSamplingContinuousEDM, sampling.EDM):
        pass

    model = sd_model()
    model.add_object_patch("model_sampling", Continuous())
    hooked = [[c, {**extra, "hooks": object()}] for c, extra in conditioning()]
    good = ComfyPredictor(sd_model(), None, None, ComfyHost())
    x = noise(1, 4, 16, 16)
    return {
        "edm": message(ComfyPredictor, model, None, None, ComfyHost()),
        "hooks": message(good.predict, x, 0.5, good.from_conditioning(hooked)),
        "vae": message(good.decode, x), "clip": message(good.encode_text, ["a"]),
        "channels": message(good.predict, noise(1, 16, 8, 8), 0.5, good.from_conditioning(conditioning())),
        "model": message(ComfyPredictor(None, None, None, ComfyHost()).alpha_sigma, 0.5),
    }

with torch.inference_mode():
    out = {"diffusers": same_as_diffusers(), "pair": pair(), "patches": patches(), "refusals": refusals(),
           "native": [ComfyPredictor(m, None, None, ComfyHost()).native_size
                      for m in (sd_model(), sd_model(image_size=16), sd3_model())]}
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def run(request):
    """`run(script)`: its result, in the new and the old ComfyUI."""
    return each_once(request.getfixturevalue(request.param), MODELS)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_predictions_against_closed_forms(run, kind):
    for eps, denoised, seen in run(PREDICTIONS)[kind]:
        assert eps < 2e-3
        assert denoised < 2e-3
        assert seen < 1e-5, "the network did not get the x that was asked about"


def test_noise_levels_are_comfyui_s(run):
    assert max(run(PREDICTIONS)["schedule"]) < 1e-5


def test_same_network_in_diffusers(run):
    difference, size = run(NETWORK)["diffusers"]
    assert size > 0.1
    assert difference < 1e-4


def test_pair_and_batches_of_prompts(run):
    found = run(NETWORK)["pair"]
    assert max(found["pair"] + found["each"]) < 1e-5
    assert found["apart"] > 1e-3


def test_patches_of_the_model_act_and_are_put_back(run):
    found = run(NETWORK)["patches"]
    assert found["log"] == ["ON_PRE_RUN", "layer", "layer", "ON_CLEANUP"]
    assert found["seen"][:2] == [[2, [0, 1], True], [1, [0], False]]
    assert found["error"] == "Broken: in the middle"
    assert found["after error"] == ["ON_PRE_RUN", "ON_CLEANUP"]
    assert found["patcher"]
    assert not found["options"]
    assert "oil" in found["refused"]
    assert "Attach experts" in found["refused"]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("edm", ["EDM", "Supported: SD1.5"]),
        ("hooks", ["hooks"]),
        ("vae", ["vae", "Connect"]),
        ("clip", ["clip", "Connect"]),
        ("model", ["model", "Connect"]),
        ("channels", ["[1, 16, 8, 8]", "[B,4,h,w]"]),
    ],
)
def test_refusals(run, case, words):
    found = run(NETWORK)["refusals"][case]
    assert found.startswith("RegionStyleError")
    assert all(word in found for word in words), found


def test_native_sizes(run):
    assert run(NETWORK)["native"] == [512, 128, 1024]
