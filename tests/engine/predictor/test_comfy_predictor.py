"""The ComfyUI host and predictor on tiny random models, inside ComfyUI's interpreter, in inference mode as in nodes.

Each script starts with `comfy_models.py` and ends in one line of JSON: numbers and messages that the tests judge.
"""

from pathlib import Path

import pytest

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

TEXT_AND_IMAGES = """
from regionstyle.nodes.engine.predictor.tokens import find_phrase

with torch.inference_mode():
    model, clip, vae = sd_model(), sd_clip(), sd_vae()
    predictor = ComfyPredictor(model, clip, vae, ComfyHost())
    prompt = "a (red cat:1.3) on a mat, with a hairdryer"
    text = predictor.encode_text([prompt])
    direct = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    long = predictor.encode_text([" ".join(["tree"] * 90) + " and a red cat"])
    two = predictor.encode_text(["a cat", "a red dog"])
    out = {
        "states": far(text.states, direct[0][0]), "shape": list(text.states.shape), "pieces": text.pieces[0][:14],
        "valid": text.valid[0].nonzero().flatten().tolist(), "cat": find_phrase(text, "red cat"),
        "dryer": find_phrase(text, "hairdryer"), "absent": message(find_phrase, text, "dog"),
        "ids": text.ids[0][:4] == [entry[0] for entry in clip.tokenize(prompt)["l"][0]][:4],
        "long": [list(long.states.shape), find_phrase(long, "red cat"), int(long.valid.sum())],
        "two": [list(two.states.shape), find_phrase(two, "dog", 1), len(two.native)],
        "unequal": message(predictor.encode_text, ["a cat", "tree " * 90]),
    }
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    latents = predictor.encode(images)
    plain = vae.encode(images.movedim(1, -1))
    decoded = predictor.decode(latents)
    out["latents"] = [list(latents.shape), far(latents, plain * 0.18215), float(latents.std())]
    out["decoded"] = [list(decoded.shape), far(decoded, vae.decode(plain).movedim(-1, 1)), float(decoded.std()),
                      float(decoded.min()), float(decoded.max())]
    out["odd"] = message(predictor.encode, torch.rand(1, 3, 60, 96))
    out["again"] = far(latents, predictor.encode(images))
    # Decoding between two predictions, inside one block, changes nothing.
    x = noise(2, 4, 8, 12)
    with predictor.loaded():
        first = predictor.predict(x, 0.4, two).eps
        predictor.decode(latents)
        out["between"] = far(first, predictor.predict(x, 0.4, two).eps)
print(json.dumps(out))
"""

GRADIENTS = """
import comfy.model_management as management
from regionstyle.nodes.engine.host.gradients import ordinary

def tensors(*modules):
    return [t for m in modules for t in (*m.parameters(), *m.buffers())]

def slope(function, x, direction, step):
    with torch.no_grad():
        return float(function(x + step * direction) - function(x - step * direction)) / (2 * step)

def direct_gradient(weights, x, context):
    # The same network built outside inference mode, differentiated as usual.
    with torch.inference_mode(False), torch.enable_grad():
        import comfy.supported_models
        config = comfy.supported_models.SD15(dict(UNET))
        config.unet_config.update({"num_heads": 4, "num_head_channels": -1, **UNET})
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        model.diffusion_model.load_state_dict(weights)
        x = x.clone().requires_grad_()
        level = model.model_sampling.sigmas[500].expand(1).clone()
        clean = model.apply_model(x * (1 + level**2).sqrt(), level, c_crossattn=context.clone())
        return torch.autograd.grad((clean * TARGET.clone()).sum(), x)[0]

TARGET = noise(1, 4, 16, 16, seed=5)
out = {}
with torch.inference_mode():
    model, vae = sd_model(), sd_vae()
    networks = model.model, vae.first_stage_model
    before = tensors(*networks)
    out["inference"] = [sum(t.is_inference() for t in before), len(before)]
    flag = getattr(management, "in_training", None)
    predictor = ComfyPredictor(model, None, vae, ComfyHost())
    text, latent = predictor.from_conditioning(conditioning()), noise(1, 4, 16, 16)
    direction = noise(1, 4, 16, 16, seed=9)
    direction = direction / direction.norm()
    without = predictor.predict(latent, 0.5, text)

    with predictor.gradients(decode=True):
        out["modes"] = [torch.is_inference_mode_enabled(), torch.is_grad_enabled()]
        out["modes"].append(getattr(management, "in_training", None))
        x, way, target = ordinary(latent).requires_grad_(), ordinary(direction), ordinary(TARGET)
        score = lambda v: (predictor.predict(v, 0.5, text).denoised.double() * target).sum()
        result = predictor.predict(x, 0.5, text)
        out["same"] = far(result.eps.detach(), without.eps)
        gradient, = torch.autograd.grad((result.denoised * target).sum(), x)
        out["frozen"] = all(not p.requires_grad for p in model.model.parameters())
        out["unet"] = [float((gradient * way).sum()), slope(score, x.detach(), way, 3e-2)]
        # A trainable adapter on the words' keys: its gradient needs the conditioning, which was made in inference mode.
        layer = next(m for n, m in model.model.named_modules() if n.endswith("attn2.to_k"))
        adapter = torch.zeros(64, layer.out_features, requires_grad=True)
        handle = layer.register_forward_hook(lambda module, inputs, output: output + inputs[0] @ adapter)
        trained, = torch.autograd.grad(score(x), adapter)
        handle.remove()
        out["adapter"] = float(trained.abs().max())
        picture = lambda v: (predictor.decode(v).double() ** 2).sum()
        decoded, = torch.autograd.grad(picture(x), x)
        # Along its own gradient the change is far above the rounding of float32.
        way = decoded / decoded.norm()
        out["vae"] = [float(decoded.norm()), slope(picture, x.detach(), way, 3e-2)]

    weights = {k: v.clone() for k, v in model.model.diffusion_model.state_dict().items()}
    exact = direct_gradient(weights, latent, conditioning()[0][0])
    out["exact"] = [float((gradient - exact).abs().max()), float(exact.abs().max())]
    out["restored"] = [a is b for a, b in zip(before, tensors(*networks))].count(False)
    out["flag"] = getattr(management, "in_training", None) == flag
    out["mode"] = torch.is_inference_mode_enabled()
    out["still"] = far(without.eps, predictor.predict(latent, 0.5, text).eps)

    def fail():
        with predictor.gradients(decode=True):
            raise RuntimeError("in the middle")

    out["error"] = message(fail)
    out["restored after error"] = [a is b for a, b in zip(before, tensors(*networks))].count(False)
    out["flag after error"] = getattr(management, "in_training", None) == flag
    # What breaks without the recipe: proof that the test would notice.
    def naive():
        with torch.inference_mode(False), torch.enable_grad():
            predictor.predict(latent.clone().requires_grad_(), 0.5, text).eps.sum().backward()
    out["naive"] = message(naive)
print(json.dumps(out))
"""

HOST = """
import comfy.model_management as management
import comfy.utils
import folder_paths
from pathlib import Path

sent = []
comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, **kwargs: sent.append((value, total, preview)))
host = ComfyHost()
out = {"device": str(host.device), "dtypes": [str(host.dtype(part)) for part in ("unet", "vae", "text")],
       "part": message(host.dtype, "clip")}

progress = host.progress(10, "restyle")
picture = torch.zeros(3, 20, 30)
picture[0] = 1
progress.update(1, picture)
kind, image, size = sent[-1][2]
out["preview"] = [sent[-1][:2], kind, list(image.size), list(image.getpixel((3, 4))), size]
management.interrupt_current_processing(True)
out["interrupt"] = message(progress.update, 2)
management.interrupt_current_processing(True)
out["check"] = message(host.check)
out["afterwards"] = message(host.check)

folder = Path(folder_paths.get_folder_paths("loras")[0])
out["find"] = [message(host.find, "loras", "no such.safetensors"), str(folder), message(host.find, "hats", "x")]

class Foreign(torch.nn.Module):
    # Like diffusers models: attributes without a setter.
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)

    device = property(lambda self: self.layer.weight.device)

network = Foreign()
host.load(network)
ComfyHost().load(network)
loaded = [entry.model for entry in management.current_loaded_models if hasattr(entry.model.model, "network")]
out["loaded"] = [len(loaded), loaded[0].model.network is network, loaded[0] is host.patcher(network)]
out["size"] = loaded[0].model_size() == 12 * 4
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=VERSIONS)
def run(request):
    """`run(script)`: its result, in the new and the old ComfyUI."""
    runner, results = request.getfixturevalue(request.param), {}

    def cached(script):
        if script not in results:
            results[script] = runner(MODELS + script)
        return results[script]

    return cached


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


def test_text(run):
    found = run(TEXT_AND_IMAGES)
    assert found["states"] == 0
    assert found["shape"] == [1, 77, 64]
    words = [
        "a</w>",
        "red</w>",
        "cat</w>",
        "on</w>",
        "a</w>",
        "mat</w>",
        ",</w>",
        "with</w>",
        "a</w>",
        "hair",
        "dryer</w>",
    ]
    assert found["pieces"] == ["<|startoftext|>", *words, "<|endoftext|>", "<|endoftext|>"]
    assert found["valid"] == list(range(1, 12))
    assert found["ids"]
    assert found["cat"] == [2, 3]
    assert found["dryer"] == [10, 11]
    assert "a red cat on a mat" in found["absent"]
    assert found["two"] == [[2, 77, 64], [3], 2]
    assert "one by one" in found["unequal"]


def test_long_prompts_take_chunks(run):
    """75 words in the first chunk, then start and end tokens, which are no words."""
    shape, positions, words = run(TEXT_AND_IMAGES)["long"]
    assert shape == [1, 154, 64]
    assert positions == [77 + 1 + 15 + 2, 77 + 1 + 15 + 3]
    assert words == 94


def test_images(run):
    found = run(TEXT_AND_IMAGES)
    shape, difference, spread = found["latents"]
    assert shape == [2, 4, 8, 12]
    assert difference < 1e-6
    assert spread > 1e-3
    shape, difference, spread, low, high = found["decoded"]
    assert shape == [2, 3, 64, 96]
    assert difference < 1e-5
    assert spread > 1e-3
    assert 0 <= low <= high <= 1
    assert "multiples of 8" in found["odd"]
    assert found["again"] == found["between"] == 0


def test_gradients_agree_with_finite_differences(run):
    found = run(GRADIENTS)
    assert found["inference"][0] == found["inference"][1] > 100
    assert found["modes"][:2] == [False, True]
    assert found["modes"][2] in (True, None)
    assert found["frozen"]
    assert found["same"] < 1e-6
    assert found["adapter"] > 1e-4
    for part in ("unet", "vae"):
        gradient, difference = found[part]
        assert abs(difference) > 1e-2
        assert gradient == pytest.approx(difference, rel=1e-2)


def test_gradients_equal_those_of_an_ordinary_network(run):
    difference, size = run(GRADIENTS)["exact"]
    assert difference < 1e-4 * size


def test_gradients_restore_everything(run):
    found = run(GRADIENTS)
    assert found["restored"] == found["restored after error"] == 0
    assert found["flag"]
    assert found["flag after error"]
    assert found["mode"]
    assert found["still"] == 0
    assert "in the middle" in found["error"]
    assert "Inference tensors" in found["naive"]


def test_progress_preview_and_interrupt(run):
    found = run(HOST)
    assert found["preview"] == [[1, 10], "JPEG", [30, 20], [255, 0, 0], 512]
    assert found["interrupt"].startswith("InterruptProcessingException")
    assert found["check"].startswith("InterruptProcessingException")
    assert found["afterwards"] == "no error"


def test_devices_and_dtypes(run):
    found = run(HOST)
    assert found["device"] == "cpu"
    assert found["dtypes"][0] == "torch.float32"
    assert "'clip'" in found["part"]


def test_missing_file(run):
    absent, folder, unknown = run(HOST)["find"]
    assert "'no such.safetensors'" in absent
    assert folder in absent
    assert "'hats'" in unknown


def test_foreign_networks_are_counted_once(run):
    found = run(HOST)
    assert found["loaded"] == [1, True, True]
    assert found["size"]
