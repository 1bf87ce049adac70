"""torch.compile around or inside a MODEL with experts: every order gives what the uncompiled MODEL gives.

The backend "eager" runs what dynamo captured with torch's own kernels: its guards and graph breaks are those of every
backend, and the results must be equal.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.sample
from comfy_api.torch_helpers import set_torch_compile_wrapper
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy, without_experts
from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.lora.init import init_lora
from regionstyle.nodes.sms.comfy.sms import with_fake

def compiled(model):
    made = model.clone()
    set_torch_compile_wrapper(model=made, backend="eager")
    return made

def expert(model):
    layers = (".to_q", ".to_v")
    made = init_lora(model.model.diffusion_model, "sketch", "sketch", rank=2, alpha=2, layers=layers, seed=1)
    generator = torch.Generator().manual_seed(2)
    for layer in made.layers.values():
        layer.up.copy_(torch.randn(layer.up.shape, generator=generator))
    return made

def sample(model, steps=1):
    latent = torch.zeros(1, 4, 8, 8)
    return comfy.sample.sample(model, noise(1, 4, 8, 8), steps, 1.0, "euler", "normal", conditioning(),
                               conditioning(seed=1), latent, disable_pbar=True, seed=0)

def look(model):
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text = predictor.from_conditioning(conditioning())
    with predictor.loaded(), AttentionTap(predictor, [[1, 2]]) as tap:
        predictor.predict(noise(1, 4, 8, 8), 0.5, text)
    return tap.mean()

def gradient(model):
    predictor, gates, fake = with_fake(model, None, None, 0.8, 1)
    text = predictor.from_conditioning(conditioning())
    with predictor.gradients():
        x = noise(1, 4, 8, 8).clone()
        predictor.predict(x, 0.5, text, Gates({"sms fake": 1.0})).eps.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in fake if p.grad is not None])

with torch.inference_mode():
    model = sd_model()
    made = expert(model)
    half = torch.zeros(1, 8, 8); half[:, :4] = 1
    attach = lambda base, gate: attach_to_comfy(base, [made], Gates({"sketch": gate}))
    gates = {"weak": 0.5, "full": 1.0, "mask": half}
    bare, seen = sample(model), look(model)
    expected = {name: sample(attach(model, gate)) for name, gate in gates.items()}
    slope = gradient(attach(model, 1.0))

    before = compiled(model)
    result = {"bare first": far(sample(before), bare), "moved": far(expected["full"], bare),
              "gates": far(expected["full"], expected["weak"])}
    for name, gate in [*gates.items(), *gates.items()]:
        result["compile, attach " + name] = far(sample(attach(before, gate)), expected[name])
    for name, gate in gates.items():
        result["attach, compile " + name] = far(sample(compiled(attach(model, gate))), expected[name])
    result["looked"] = far(look(before), seen)
    result["looked without"] = far(look(without_experts(attach(before, 1.0))), seen)
    result["slope"] = steepest = float(slope.abs().max())
    result["gradient"] = far(gradient(attach(before, 1.0)), slope) / steepest
    result["gradient after"] = far(gradient(compiled(attach(model, 1.0))), slope) / steepest
    result["bare again"] = far(sample(before), bare)
    result["uncompiled"] = far(sample(model), bare)
    left = [name for name, module in model.model.diffusion_model.named_modules() if "forward" in module.__dict__]
    result["left"] = len(left)

    # As an object patch, the way KJNodes compiles: the network stays replaced while the MODEL is loaded.
    patched = model.clone()
    patched.add_object_patch("diffusion_model", torch.compile(model.model.diffusion_model, backend="eager"))
    result["object patch"] = far(sample(attach(patched, 1.0)), expected["full"])
    result["object patch, attach again"] = far(sample(attach(patched, 0.5)), expected["weak"])
    result["looked through the patch"] = far(look(patched), seen)
    result["after the patch"] = far(sample(model), bare)
print(json.dumps(result))
"""


@pytest.mark.parametrize("run", ["run_in_comfy", "run_in_old_comfy"])
def test_every_order_gives_what_the_uncompiled_model_gives(run, request):
    result = request.getfixturevalue(run)(MODELS + SCRIPT)
    assert result.pop("left") == 0
    for name in ("moved", "gates"):
        assert result.pop(name) > 1e-3, name
    assert result.pop("slope") > 1e-6
    assert {name: error for name, error in result.items() if error > 1e-5} == {}
