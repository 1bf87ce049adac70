"""Experts on quantised and on offloaded models, forward only: files read by ComfyUI's own loader, its own layers.

The reference is the same network with the quantised weights written out in float32. On a CPU ComfyUI computes with
them so; on a GPU that has the format it rounds the inputs of each layer too, experts or not.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.model_management, comfy.ops, comfy.sample, comfy.sd, comfy.utils
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.host.gradients import ordinary
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.families.registry import family_of

FLUX = dict(hidden_size=128, num_heads=1, axes_dim=[16, 56, 56], depth=1, depth_single_blocks=1, context_in_dim=4096,
            vec_in_dim=768)

def plain_state(name):
    model = sd3_model() if name == "sd3" else flux_model(**FLUX)
    return {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}

def quantised(state, kind):
    '''The tensors of a quantised file, and of one with the same weights written out.'''
    packed, written = dict(state), dict(state)
    for key in [k for k in state if k.endswith(".weight") and ("attn." in k or "mlp." in k or "linear" in k)]:
        if state[key].ndim != 2 or "final" in key or "mod" in key.split(".")[-2]:
            continue
        layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
        made = QuantizedTensor.from_float(state[key].float(), layout, scale="recalculate")
        path = key.removesuffix("weight")
        written[key] = made.dequantize().float()
        for name, tensor in made.state_dict(key).items():
            packed[name] = tensor
        conf = json.dumps({"format": kind}).encode()
        packed[path + "comfy_quant"] = torch.tensor(list(conf), dtype=torch.uint8)
    return packed, written

def load(state, **options):
    return comfy.sd.load_diffusion_model_state_dict({k: v.clone() for k, v in state.items()}, model_options=options)

def experts_for(model):
    network = model.model.diffusion_model
    modules, made = dict(network.named_modules()), []
    for number, name in enumerate(("one", "two")):
        layers = {}
        for at, (path, place) in enumerate(family_of(network).layer_slices(network).items()):
            if ".attn." not in path and ".ff." not in path:
                continue
            module, rows = modules[place.module], place.rows
            outputs = module.out_features if rows is None else len(range(module.out_features)[rows])
            down = noise(2, module.in_features, seed=at + 100 * number)
            layers[path] = LoraLayer(down, noise(outputs, 2, seed=at + 7 + 100 * number) * 0.1)
        made.append(Expert(name, layers))
    return made

def routed(model):
    halves = torch.zeros(2, 1, 12, 10)
    halves[0, ..., :5], halves[1, ..., 5:] = 1, 1
    gates = Gates({name: RegionGate(mask) for name, mask in zip(("one", "two"), halves)})
    return attach_to_comfy(model, experts_for(model), gates)

def sample(model, name):
    cond = conditioning(0, 4096, 2048 if name == "sd3" else 768, 24)
    return comfy.sample.sample(model, noise(1, 16, 12, 10), 2, 1.0, "euler", "normal", cond, cond,
                               torch.zeros(1, 16, 12, 10), disable_pbar=True, seed=0)

def relative(a, b):
    return float((a - b).norm() / b.norm())

def differentiate(model):
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    with predictor.gradients():
        pass

def slope(model, name):
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text = predictor.from_conditioning(conditioning(0, 4096, 2048 if name == "sd3" else 768, 24))
    with predictor.gradients():
        latent = ordinary(noise(1, 16, 12, 10)).requires_grad_()
        return torch.autograd.grad(predictor.predict(latent, 0.5, text).denoised.square().sum(), latent)[0]

class Little:
    '''ComfyUI loads models as where memory is short: no weight stays on the device, each layer fetches its own.'''
    def __enter__(self):
        kind = comfy.model_management.LoadedModel
        self.kept = kind.model_load
        kind.model_load = lambda loaded, memory=0, force_patch_weights=False: self.kept(
            loaded, 0.1, force_patch_weights)
    def __exit__(self, *error):
        comfy.model_management.LoadedModel.model_load = self.kept

def fetched(model):
    return sum(bool(getattr(m, "comfy_cast_weights", False)) for m in model.model.diffusion_model.modules())

out = {}
with torch.inference_mode():
    for name in ("sd3", "flux"):
        state, found = plain_state(name), {}
        for kind in ("float8_e4m3fn", "int8_tensorwise"):
            packed, written = quantised(state, kind)
            exact = load(written)
            model = load(packed)
            before = sample(model, name)
            with_experts = sample(routed(model), name)
            wanted = sample(routed(exact), name)
            found[kind] = dict(
                packed=sum(isinstance(m.weight, QuantizedTensor) for m in model.model.diffusion_model.modules()
                           if isinstance(getattr(m, "weight", None), torch.Tensor)),
                plain=relative(before, sample(exact, name)), error=relative(with_experts, wanted),
                change=relative(wanted, sample(exact, name)), after=torch.equal(sample(model, name), before),
                gradients=message(differentiate, routed(model)),
            )
        model = load(state, dtype=torch.float8_e4m3fn)
        rounded = {k: v.to(torch.float8_e4m3fn).float() for k, v in state.items()}
        stored = {str(p.dtype) for p in model.model.diffusion_model.parameters()}
        exact = routed(load(rounded))
        found["stored fp8"] = dict(stored=sorted(stored),
                                   error=relative(sample(routed(model), name), sample(exact, name)),
                                   slope=relative(slope(routed(model), name), slope(exact, name)))

        exact = load(state)
        wanted, plain = sample(routed(exact), name), sample(exact, name)
        comfy.model_management.unload_all_models()
        model = load(state)
        key = next(k for k in model.model.state_dict() if k.endswith("proj.weight") and "attn" in k)
        patch = {key: (noise(*model.model.state_dict()[key].shape, seed=4),)}
        merged = load(state)
        merged.add_patches(patch, 0.05)
        both = sample(routed(merged), name)
        comfy.model_management.unload_all_models()
        with Little():
            offloaded = routed(model)
            got, fetching = sample(offloaded, name), fetched(offloaded)
            bare = sample(model, name)
            again = model.clone()
            again.add_patches(patch, 0.05)
            beside = sample(routed(again), name)
        found["offloaded"] = dict(fetching=fetching, error=relative(got, wanted), plain=relative(bare, plain),
                                  change=relative(wanted, plain), lora=relative(beside, both),
                                  lora_change=relative(both, wanted))
        comfy.model_management.unload_all_models()
        out[name] = found
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def everything(run_in_comfy):
    return run_in_comfy(MODELS + SCRIPT)


@pytest.fixture(params=["sd3", "flux"])
def found(request, everything):
    return everything[request.param]


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int8_tensorwise"])
def test_regional_experts_on_a_quantised_base_equal_those_on_its_written_out_weights(found, kind):
    result = found[kind]
    assert result["packed"] > 3, "nothing was quantised"
    assert result["change"] > 0.02
    # The int8 layers of ComfyUI round their inputs too, experts or not.
    assert result["plain"] < (1e-5 if kind == "float8_e4m3fn" else 0.02)
    assert result["error"] < (1e-5 if kind == "float8_e4m3fn" else 0.1 * result["change"])
    assert result["after"], "the model that was given has changed"


def test_weights_that_are_stored_in_eight_bits_are_cast_and_the_experts_are_not(found):
    assert "torch.float8_e4m3fn" in found["stored fp8"]["stored"]
    assert found["stored fp8"]["error"] < 1e-5
    assert found["stored fp8"]["slope"] < 1e-5, "gradients through weights that are only stored so are the exact ones"


def test_regional_experts_on_an_offloaded_base_equal_those_on_a_loaded_one(found):
    result = found["offloaded"]
    assert result["fetching"] > 5, "the model was loaded whole"
    assert result["change"] > 0.02
    assert result["plain"] < 1e-6
    assert result["error"] < 1e-6
    assert result["lora_change"] > 1e-3
    assert result["lora"] < 1e-5, "beside an ordinary LoRA"


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int8_tensorwise"])
def test_gradients_on_a_quantised_base_are_one_clear_error(found, kind):
    text = found[kind]["gradients"]
    assert text.startswith("RegionStyleError: model: got weights of type"), text
    assert "unquantised" in text
