"""Gradients in ComfyUI on tiny random models, inside ComfyUI's interpreter, in inference mode as in nodes.

Each script starts with `comfy_models.py` and ends in one line of JSON: numbers and messages that the tests judge.
"""

from pathlib import Path

import pytest

from comfy_script import each_once

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()
VERSIONS = ["run_in_comfy", "run_in_old_comfy"]

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


@pytest.fixture(scope="module", params=VERSIONS)
def run(request):
    """`run(script)`: its result, in the new and the old ComfyUI."""
    return each_once(request.getfixturevalue(request.param), MODELS)


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
