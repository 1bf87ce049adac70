"""DoRA files on ComfyUI MODELs, beside the weights that ComfyUI's own loader merges from the same file.

On quantised, cast and offloaded weights too, where the oracle is ComfyUI's loader on the same weights written out.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

COMMON = """
import comfy.model_management, comfy.sample, comfy.sd
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

def low_rank(weight, random):
    return {"lora_down.weight": random(2, *weight.shape[1:]), "lora_up.weight": random(len(weight), 2,
            *[1] * (weight.ndim - 2)) * 0.3, "alpha": torch.tensor(3.0)}

def loha(weight, random):
    inputs = weight[0].numel()
    return {"hada_w1_a": random(len(weight), 2), "hada_w1_b": random(2, inputs) * weight.shape[1] ** 0.5,
            "hada_w2_a": random(len(weight), 2), "hada_w2_b": random(2, inputs), "alpha": torch.tensor(1.0)}

def lokr(weight, random):
    return {"lokr_w1": random(2, 2) * 0.5, "lokr_w2": random(len(weight) // 2, weight.shape[1] // 2, *weight.shape[2:])}

def dora_file(network, name_of, make=low_rank, by_input=False, seed=1):
    '''The tensors of a DoRA of every layer with an even number of inputs and outputs.'''
    generator, found = torch.Generator().manual_seed(seed), {}
    random = lambda *shape: torch.randn(*shape, generator=generator) / shape[1] ** 0.5
    for name, module in network.named_modules():
        if not name_of(name) or not hasattr(module, "weight") or module.weight.ndim not in (2, 4):
            continue
        weight = torch.empty(module.weight.shape)
        own = 1 if by_input else 0
        shape = [size if dim == own else 1 for dim, size in enumerate(weight.shape)]
        size = weight[:, 0].numel() if by_input else weight[0].numel()
        typical = (size / weight[0].numel()) ** 0.5  # lengths of weights that keep the size of what they multiply
        made = make(weight, random) | {"dora_scale": typical * (0.8 + 0.4 * torch.rand(shape, generator=generator))}
        found |= {f"{name_of(name)}.{role}": tensor for role, tensor in made.items()}
    return found

def merged(model, tensors, strength):
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, strength, 0)
    layers = sum(key.endswith("dora_scale") for key in tensors)
    assert len(patched.patches) - len(model.patches) in (layers, 0), (len(patched.patches), layers)
    return patched

def routed(model, tensors, gate):
    expert = load_expert(tensors, name="x", network=model.model.diffusion_model)
    return attach_to_comfy(model, [expert], Gates({"x": gate}))

def relative(a, b):
    return float((a - b).norm() / b.norm())
"""

UNET = """
def name_of(name):
    chosen = any(part in name for part in ("transformer_blocks", "in_layers", ".op"))
    return "lora_unet_" + name.replace(".", "_") if chosen else ""

def sample(model, batch=1):
    return comfy.sample.sample(model, noise(batch, 4, 12, 10), 2, 3.0, "euler", "normal", conditioning(),
                               conditioning(seed=1), torch.zeros(batch, 4, 12, 10), disable_pbar=True, seed=0)

out = {}
with torch.inference_mode():
    model = sd_model()
    network, base = model.model.diffusion_model, sample(model)
    for kind, options in {"rows": {}, "columns": dict(by_input=True), "LoHa": dict(make=loha),
                          "LoKr": dict(make=lokr)}.items():
        tensors = dora_file(network, name_of, **options)
        for strength in (1.0, 0.6) if kind == "rows" else (0.8,):
            wanted = sample(merged(model, tensors, strength))
            number, mask = (sample(routed(model, tensors, gate))
                            for gate in (strength, RegionGate(torch.ones(1, 8, 8), strength)))
            out[f"{kind} {strength}"] = dict(change=relative(wanted, base), number=relative(number, wanted),
                                             mask=relative(mask, wanted), after=torch.equal(sample(model), base))
    tensors, other = dora_file(network, name_of), dora_file(network, name_of, seed=5)
    other = {key: value for key, value in other.items() if not key.endswith("dora_scale")}
    below, _ = comfy.sd.load_lora_for_models(model, None, other, 0.5, 0)
    wanted = sample(merged(below, tensors, 0.7))
    both = routed(model, tensors, 0.7)
    first = sample(both)
    above, _ = comfy.sd.load_lora_for_models(both, None, other, 0.5, 0)  # other weights under the same experts
    masked = sample(routed(below, tensors, RegionGate(torch.ones(1, 8, 8), 0.7)))
    out["over a LoRA"] = dict(change=relative(sample(below), wanted), number=relative(sample(above), wanted),
                              mask=relative(masked, wanted),
                              after=torch.equal(sample(both), first))
    half = torch.zeros(1, 12, 10)
    half[:, :, :5] = 1
    sample(model)  # takes the ordinary LoRAs out of the weights
    weights = {key: value.clone() for key, value in model.model.state_dict().items()}
    seen = sample(routed(model, tensors, half))
    kept = all(torch.equal(weights[key], value) for key, value in model.model.state_dict().items())
    out["half"] = dict(between=[relative(seen, base), relative(seen, sample(merged(model, tensors, 1.0)))],
                       weights=kept,
                       wrapped=sum("forward" in m.__dict__ or "_conv_forward" in m.__dict__
                                   for m in network.modules()) if sample(model) is not None else -1)
print(json.dumps(out))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def on_unet(request):
    return request.getfixturevalue(request.param)(MODELS + COMMON + UNET)


def test_every_kind_acts_as_comfyui_merges_it(on_unet):
    for kind, found in on_unet.items():
        if kind != "half":
            assert found["change"] > 0.02, kind
            assert max(found["number"], found["mask"]) < 1e-4, (kind, found)
            assert found["after"], f"{kind}: the model that was given has changed"


def test_a_mask_changes_a_part_and_no_weight(on_unet):
    found = on_unet["half"]
    assert min(found["between"]) > 0.01
    assert found["weights"]
    assert found["wrapped"] == 0


FLUX = """
import comfy.ops
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

SHAPE = dict(hidden_size=128, num_heads=1, axes_dim=[16, 56, 56], depth=1, depth_single_blocks=1, context_in_dim=4096,
             vec_in_dim=768)

def quantised(state, kind):
    packed, written = dict(state), dict(state)
    for key in [k for k in state if k.endswith(".weight") and ("attn." in k or "mlp." in k or "linear" in k)]:
        if state[key].ndim != 2 or "final" in key or "mod" in key.split(".")[-2]:
            continue
        layout = QUANT_ALGOS[kind]["comfy_tensor_layout"]
        made = QuantizedTensor.from_float(state[key].float(), layout, scale="recalculate")
        written[key] = made.dequantize().float()
        packed |= made.state_dict(key)
        packed[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(json.dumps({"format": kind}).encode()),
                                                                          dtype=torch.uint8)
    return packed, written

def load(state, **options):
    return comfy.sd.load_diffusion_model_state_dict({k: v.clone() for k, v in state.items()}, model_options=options)

def sample(model):
    cond = conditioning(0, 4096, 768, 24)
    return comfy.sample.sample(model, noise(1, 16, 12, 10), 2, 1.0, "euler", "normal", cond, cond,
                               torch.zeros(1, 16, 12, 10), disable_pbar=True, seed=0)

class Little:
    '''ComfyUI loads models as where memory is short: no weight stays on the device, each layer fetches its own.'''
    def __enter__(self):
        kind = comfy.model_management.LoadedModel
        self.kept = kind.model_load
        kind.model_load = lambda loaded, memory=0, force_patch_weights=False: self.kept(
            loaded, 0.1, force_patch_weights)
    def __exit__(self, *error):
        comfy.model_management.LoadedModel.model_load = self.kept

def name_of(name):
    chosen = "blocks." in name and name.rsplit(".")[-1] in ("qkv", "proj", "linear1", "linear2", "0", "2")
    return "diffusion_model." + name if chosen else ""

out = {}
with torch.inference_mode():
    state = {key: value.clone() for key, value in flux_model(**SHAPE).model.diffusion_model.state_dict().items()}
    exact = load(state)
    tensors = dora_file(exact.model.diffusion_model, name_of)
    layers = sum(key.endswith("dora_scale") for key in tensors)
    base, wanted = sample(exact), sample(merged(exact, tensors, 0.8))
    out["plain"] = dict(change=relative(wanted, base), error=relative(sample(routed(exact, tensors, 0.8)), wanted),
                        layers=layers)
    for kind in ("float8_e4m3fn", "int8_tensorwise"):
        packed, written = quantised(state, kind)
        other = load(written)
        merged_exact = sample(merged(other, tensors, 0.8))
        model = load(packed)
        modules = model.model.diffusion_model.modules()
        assert sum(isinstance(getattr(m, "weight", None), QuantizedTensor) for m in modules) > 3
        before, everywhere = sample(model), RegionGate(torch.ones(1, 4, 4), 0.8)
        out[kind] = dict(change=relative(merged_exact, sample(other)), plain=relative(before, sample(other)),
                         error=relative(sample(routed(model, tensors, 0.8)), merged_exact),
                         mask=relative(sample(routed(model, tensors, everywhere)), merged_exact),
                         after=torch.equal(sample(model), before))
    rounded = {k: v.to(torch.float8_e4m3fn).float() for k, v in state.items()}
    merged_exact = sample(merged(load(rounded), tensors, 0.8))
    model = load(state, dtype=torch.float8_e4m3fn)
    out["stored fp8"] = dict(change=relative(merged_exact, sample(model)),
                             error=relative(sample(routed(model, tensors, 0.8)), merged_exact))
    comfy.model_management.unload_all_models()
    unet, convolutions = sd_model(), lambda n: "lora_unet_" + n.replace(".", "_") if "in_layers" in n else ""
    tensors_unet = dora_file(unet.model.diffusion_model, convolutions)
    def sample_unet(model):
        return comfy.sample.sample(model, noise(1, 4, 12, 10), 2, 3.0, "euler", "normal", conditioning(),
                                   conditioning(seed=1), torch.zeros(1, 4, 12, 10), disable_pbar=True, seed=0)
    wanted_unet = sample_unet(merged(unet, tensors_unet, 1.0))
    comfy.model_management.unload_all_models()
    with Little():
        offloaded = routed(load(state), tensors, 0.8)
        out["offloaded"] = dict(change=relative(wanted, base), error=relative(sample(offloaded), wanted),
            fetching=sum(bool(getattr(m, "comfy_cast_weights", False))
                         for m in offloaded.model.diffusion_model.modules()))
        offloaded = routed(unet, tensors_unet, 1.0)
        out["offloaded convolutions"] = dict(change=relative(wanted_unet, sample_unet(unet)),
            error=relative(sample_unet(offloaded), wanted_unet),
            fetching=sum(bool(getattr(m, "comfy_cast_weights", False)) for m in unet.model.diffusion_model.modules()))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def on_flux(run_in_comfy):
    return run_in_comfy(MODELS + COMMON + FLUX)


@pytest.mark.parametrize("kind", ["plain", "stored fp8", "float8_e4m3fn", "int8_tensorwise"])
def test_on_fused_cast_and_quantised_layers(on_flux, kind):
    found = on_flux[kind]
    assert found["change"] > 0.02
    # The int8 layers of ComfyUI round their inputs too, experts or not.
    assert found["error"] < (0.02 if kind == "int8_tensorwise" else 1e-4)
    assert found.get("mask", 0) < (0.02 if kind == "int8_tensorwise" else 1e-4)
    assert found.get("after", True), "the model that was given has changed"
    assert found.get("layers", 9) > 8


@pytest.mark.parametrize("kind", ["offloaded", "offloaded convolutions"])
def test_on_weights_that_each_layer_fetches(on_flux, kind):
    found = on_flux[kind]
    assert found["fetching"] > 5, "the model was loaded whole"
    assert found["change"] > 1e-3
    assert found["error"] < 1e-5
