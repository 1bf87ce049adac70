"""Experts and the attention tap on ComfyUI MODELs, inside ComfyUI's interpreter, in inference mode as in nodes.

One script per ComfyUI version; it starts with `comfy_models.py` and ends in one line of JSON that the tests judge.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import gc, tempfile
import comfy.model_management as management, comfy.sample, comfy.sd, comfy.utils
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy, attached_experts, attached_gates
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.families.unet_names import unet_paths

def new_expert(model, name="sketch", seed=1, rank=3):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.5 / shape[1] ** 0.5
    network, layers = model.model.diffusion_model, {}
    for path, own in unet_paths(network).items():
        module = network.get_submodule(own)
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            weight = module.weight
            up = random(weight.shape[0], rank, *[1] * (weight.ndim - 2))
            layers[path] = LoraLayer(random(rank, *weight.shape[1:]), up, 0.5)
    return Expert(name, layers)

def sample(model, batch=1, cfg=4.0, steps=2, seed=0, positive=None):
    latent = torch.zeros(batch, 4, 12, 10)
    positive = positive or conditioning()
    return comfy.sample.sample(model, noise(batch, 4, 12, 10, seed=seed), steps, cfg, "euler", "normal", positive,
                               conditioning(seed=1), latent, disable_pbar=True, seed=0)

def relative(a, b):
    return far(a, b) / float(b.abs().max())

def wrapped(model):
    return sum("forward" in module.__dict__ for module in model.model.diffusion_model.modules())

def mask(batch=1, seed=2):
    return torch.rand(batch, 24, 20, generator=torch.Generator().manual_seed(seed))

def file_round_trip():
    model = sd_model()
    expert, layers = new_expert(model), len(unet_paths(model.model.diffusion_model))
    with tempfile.TemporaryDirectory() as folder:
        save_expert(expert, folder + "/a.safetensors")
        tensors = comfy.utils.load_torch_file(folder + "/a.safetensors")
        ours = attach_to_comfy(model, [load_expert(folder + "/a.safetensors")], Gates({"sketch": 0.7}))
    core, _ = comfy.sd.load_lora_for_models(model, None, tensors, 0.7, 0)
    base, patched, merged = sample(model), sample(ours), sample(core)
    return dict(matched=len(core.patches) == len(expert.layers), change=relative(merged, base),
                error=relative(patched, merged))

def restored():
    model = sd_model()
    before = sample(model, 2)
    expert = new_expert(model)
    routed = attach_to_comfy(model, [expert], Gates({"sketch": RegionGate(mask(), 1.3)}))
    off = attach_to_comfy(model, [expert], Gates({"sketch": torch.zeros(1, 4, 4)}))
    first, inside = sample(routed, 2), wrapped(model)
    names = [type(m.model).__name__ for m in management.current_loaded_models]
    counted = sum(m.model_memory() for m in management.current_loaded_models)
    size = sum(p.numel() * 4 for p in attached_experts(routed)[0].parameters())
    out = dict(off=torch.equal(sample(off, 2), before), after=torch.equal(sample(model, 2), before),
               change=relative(first, before), again=torch.equal(sample(routed, 2), first), inside=inside,
               unwrapped=sample(model) is not None and wrapped(model) == 0, extra=len(names),
               counted=counted - model.model_size() - size)
    handle = model.model.diffusion_model.out.register_forward_hook(lambda *a: 1 / 0)
    out["error"] = message(sample, routed)
    handle.remove()
    out["after_error"] = torch.equal(sample(model, 2), before) and wrapped(model) == 0
    return out

def forgotten():
    # ComfyUI does not eject a MODEL that is deleted while it is loaded.
    model = sd_model()
    before = sample(model)
    routed = attach_to_comfy(model, [new_expert(model)], Gates({"sketch": 1.0}))
    sample(routed)
    inside = wrapped(model)
    del routed
    gc.collect()
    return dict(inside=inside, left=wrapped(model), same=torch.equal(sample(model), before))

def clones():
    model = sd_model()
    expert = new_expert(model)
    gates = [Gates({"sketch": g}) for g in (0.5, mask(), torch.tensor([1.0, 0.0]))]
    routed = [attach_to_comfy(model, [expert], g) for g in gates]
    first = [sample(m, 2) for m in routed]
    other = routed[1].clone()
    other.model_options["transformer_options"]["x"] = 1
    again = [sample(m, 2) for m in (routed[2], other, routed[0])]
    return dict(same=all(map(torch.equal, first, reversed(again))), different=relative(first[0], first[1]))

def chained():
    model = sd_model()
    one, two = new_expert(model), new_expert(model, "oil", seed=4, rank=2)
    gates = {"sketch": mask() * 0.5, "oil": mask(seed=3) * 0.5}
    both = attach_to_comfy(model, [one, two], Gates(gates))
    chain = attach_to_comfy(model, [one], Gates({"sketch": 0.3}, pooled="off"))
    chain = attach_to_comfy(chain, [two], Gates({"oil": gates["oil"]}))
    sample(chain)
    later = attach_to_comfy(chain, [], Gates({"sketch": gates["sketch"]}))
    out = sample(both)
    return dict(names=[e.name for e in attached_experts(later)], options=attached_gates(chain).pooled,
                error=relative(sample(later), out),
                different=relative(sample(chain), out), models=len(later.get_nested_additional_models()),
                twice=message(attach_to_comfy, chain, [one], Gates()), unknown=message(attach_to_comfy, model, [one],
                Gates({"x": 1})), single=relative(sample(attach_to_comfy(model, [one], Gates({"sketch": 0.3}))),
                sample(attach_to_comfy(chain, [], Gates({"oil": 0})))))

def batches():
    model = sd_model()
    calls = []
    def count(executor, x, *args, **kwargs):
        calls.append((len(x), list(args[-1]["cond_or_uncond"])))
        return executor(x, *args, **kwargs)
    expert = new_expert(model)
    halves = torch.stack([torch.zeros(12, 10), torch.ones(12, 10)])
    routed = attach_to_comfy(model, [expert], Gates({"sketch": halves}))
    routed.add_wrapper_with_key("apply_model", "count", count)
    out, base = sample(routed, 2), sample(model, 2)
    full = sample(attach_to_comfy(model, [expert], Gates({"sketch": 1})), 2)
    three = attach_to_comfy(model, [expert], Gates({"sketch": torch.ones(3, 4, 4)}))
    area = [[c, {**extra, "area": (8, 8, 0, 0)}] for c, extra in conditioning()]
    number = attach_to_comfy(model, [expert], Gates({"sketch": 0.5}))
    return dict(calls=calls, off=relative(out[:1], base[:1]), on=relative(out[1:], full[1:]),
                change=relative(full, base), three=message(sample, three, 2),
                area=message(lambda: sample(routed, 2, positive=area)),
                number=message(lambda: sample(number, 2, positive=area)))

def overrides():
    model = sd_model()
    routed = attach_to_comfy(model, [new_expert(model)], Gates({"sketch": mask()}))
    full = attach_to_comfy(model, [new_expert(model)], Gates({"sketch": 1.0}))
    predictor, other = (ComfyPredictor(m, None, None, ComfyHost()) for m in (routed, full))
    text, x = predictor.from_conditioning(conditioning()), noise(2, 4, 12, 10)
    ask = lambda p, gate=None: p.predict(x, 0.5, text, gate).eps
    plain = ask(predictor)
    one, off = ask(predictor, Gates({"sketch": 1.0})), ask(predictor, Gates())
    base = ask(ComfyPredictor(model, None, None, ComfyHost()))
    return dict(one=relative(one, ask(other)), off=torch.equal(off, base), back=torch.equal(ask(predictor), plain),
                different=relative(one, plain))

def bypass():
    # Core's own forward-wrapping LoRA on the same layers, before and after ours.
    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        return None
    model = sd_model()
    expert = new_expert(model)
    with tempfile.TemporaryDirectory() as folder:
        save_expert(new_expert(model, "oil", seed=4), folder + "/b.safetensors")
        tensors = comfy.utils.load_torch_file(folder + "/b.safetensors")
    core = lambda m: comfy.sd.load_bypass_lora_for_models(m, None, tensors, 0.5, 0)[0]
    ours = lambda m: attach_to_comfy(m, [expert], Gates({"sketch": 1.0}))
    before = sample(model)
    merged = sample(ours(comfy.sd.load_lora_for_models(model, None, tensors, 0.5, 0)[0]))
    pair = [core(ours(model)), ours(core(model))]
    errors, depths = [], []
    for _ in range(3):
        errors += [relative(sample(m), merged) for m in pair]
        forward, depth = model.model.diffusion_model.out[2].forward, 0
        while hasattr(forward, "__wrapped__"):
            forward, depth = forward.__wrapped__, depth + 1
        depths.append(depth)
    return dict(errors=errors, change=relative(merged, before), after=torch.equal(sample(model), before), depths=depths)

def gradients():
    model = sd_model()
    routed = attach_to_comfy(model, [new_expert(model)], Gates({"sketch": mask()}))
    predictor = ComfyPredictor(routed, None, None, ComfyHost())
    text, x = predictor.from_conditioning(conditioning()), noise(1, 4, 12, 10)
    with predictor.gradients():
        latent = x.clone().requires_grad_()
        parameter = next(attached_experts(routed)[0].parameters()).requires_grad_()
        loss = lambda: predictor.predict(latent, 0.5, text).eps.square().sum()
        grads = torch.autograd.grad(loss(), [latent, parameter])
        found = []
        for tensor, grad in zip([latent, parameter], grads):
            step = 1e-2 * grad / grad.norm()
            with torch.no_grad():
                tensor += step
                high = loss()
                tensor -= 2 * step
                low = loss()
                tensor += step
            found.append(float((high - low) / 2e-2 / grad.norm()))
    return dict(ratios=found, usable=message(sample, routed), restored=torch.equal(sample(model), sample(model)))

def tap():
    model = sd_model()
    network, seen = model.model.diffusion_model, {}
    M, groups = 120, [[1, 2], [7]]  # as many text tokens as places of the first layer
    words = noise(1, M, 64, seed=5) * 3
    prompt = [[words, {"pooled_output": noise(1, 64)}]]
    valid = torch.zeros(M, dtype=torch.bool)
    valid[1:9] = True
    routed = attach_to_comfy(model, [new_expert(model)], Gates({"sketch": 0.4}))
    calls = []
    def previous(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)
    routed.model_options["transformer_options"]["optimized_attention_override"] = previous
    predictor = ComfyPredictor(routed, None, None, ComfyHost())
    text, x = predictor.from_conditioning(prompt), noise(2, 4, 12, 10)
    base, count = predictor.predict(x, 0.5, text).eps, len(calls)
    paths = {own: path for path, own in unet_paths(network).items()}
    handles = []
    for own, module in network.named_modules():
        if own.endswith("attn2"):
            for name in ("to_q", "to_k"):
                hook = lambda m, a, out, key=(paths[own], name): seen.update({key: out})
                handles.append(getattr(module, name).register_forward_hook(hook))
    out = {}
    for quantity in ("logodds", "share"):
        with AttentionTap(predictor, groups, valid=valid, quantity=quantity) as tap:
            equal = torch.equal(predictor.predict(x, 0.5, text).eps, base)
        errors = []
        for path, found in tap.maps.items():
            q, k = (seen[path, n].unflatten(-1, (4, -1)).transpose(1, 2) for n in ("to_q", "to_k"))
            logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            for g, group in enumerate(groups):
                rest = [i for i in range(1, 9) if i not in group]
                odds = logits[..., group].logsumexp(-1) - logits[..., rest].logsumexp(-1)
                share = logits[..., 1:9].softmax(-1)[..., [i - 1 for i in group]].sum(-1)
                ratio = torch.log(torch.tensor(len(group) / len(rest)))
                wanted = odds.mean(1) - ratio if quantity == "logodds" else share.mean(1)
                errors.append(far(found[:, g].flatten(1), wanted))
        out[quantity] = dict(equal=equal, error=max(errors), layers=sorted(tap.maps), calls=len(calls) - count,
                             grids=sorted({tuple(m.shape) for m in tap.maps.values()}), mean=list(tap.mean().shape))
        count = len(calls)
    [handle.remove() for handle in handles]
    out["attentions"] = sorted(path for path in paths.values() if path.endswith("attn2"))
    out["first"] = count
    with predictor.gradients():
        latent = x.clone().requires_grad_()
        with AttentionTap(predictor, groups, valid=valid) as tap:
            predictor.predict(latent, 0.5, text)
        out["gradient"] = float(torch.autograd.grad(tap.mean()[:, 0].sum(), latent)[0].abs().sum())
    # The experts' own: two around a call of the network, one at each transformer block.
    own = 2 + sum(path.endswith("attn2") for path in paths.values())
    out["hooks"] = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()) - own
    return out

with torch.inference_mode():
    tests = (file_round_trip, restored, forgotten, clones, chained, batches, overrides, bypass, gradients, tap)
    print(json.dumps({test.__name__: test() for test in tests}))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def found(request):
    return request.getfixturevalue(request.param)(MODELS + SCRIPT)


def test_comfyui_applies_the_saved_file_with_the_same_effect(found):
    found = found["file_round_trip"]
    assert found["matched"]
    assert found["change"] > 1e-3
    assert found["error"] < 1e-4


def test_the_base_model_is_bit_equal_before_after_and_with_gate_zero(found):
    found = found["restored"]
    assert found["inside"] > 20
    assert found["change"] > 1e-3
    assert found["off"]
    assert found["after"]
    assert found["unwrapped"]
    assert "ZeroDivisionError" in found["error"]
    assert found["after_error"]


def test_two_runs_of_one_model_are_equal(found):
    assert found["restored"]["again"]


def test_the_experts_memory_is_counted(found):
    assert found["restored"]["extra"] >= 2
    assert found["restored"]["counted"] >= 0


def test_a_deleted_model_leaves_nothing_behind(found):
    assert found["forgotten"]["inside"] > 20
    assert found["forgotten"]["left"] == 0
    assert found["forgotten"]["same"]


def test_gates_belong_to_the_clone(found):
    assert found["clones"]["same"]
    assert found["clones"]["different"] > 1e-3


def test_experts_are_added_one_after_the_other(found):
    found = found["chained"]
    assert found["names"] == ["sketch", "oil"]
    assert found["options"] == {"sketch": "off", "oil": "mean"}
    assert found["error"] < 1e-5 < 1e-3 < found["different"]
    assert found["single"] < 1e-5
    assert found["models"] == 2
    assert "twice" in found["twice"]
    assert "'x'" in found["unknown"]


def test_gates_follow_the_latents_through_positive_and_negative_prompts(found):
    found = found["batches"]
    assert found["calls"] == [[4, [1, 0]]] * 2
    assert found["off"] < 1e-6 < 1e-3 < found["change"]
    assert found["on"] < 1e-5
    assert "3 entries" in found["three"]


def test_masks_refuse_conditioning_areas_and_numbers_do_not(found):
    assert "areas" in found["batches"]["area"]
    assert found["batches"]["number"] == "no error"


def test_one_call_may_have_other_gates(found):
    found = found["overrides"]
    assert found["one"] < 1e-5 < 1e-3 < found["different"]
    assert found["off"]
    assert found["back"]


def test_core_bypass_adapters_on_the_same_layers(found):
    found = found["bypass"]
    if found is None:
        pytest.skip("this ComfyUI has no bypass adapters")
    assert found["change"] > 1e-3
    assert max(found["errors"]) < 1e-4
    assert found["after"]
    assert max(found["depths"]) <= 2


def test_gradients_reach_the_latent_and_the_experts(found):
    found = found["gradients"]
    assert found["ratios"] == pytest.approx([1, 1], rel=0.02)
    assert found["usable"] == "no error"
    assert found["restored"]


def test_the_tap_equals_explicit_attention_and_changes_nothing(found):
    found = found["tap"]
    assert len(found["attentions"]) == 7
    for quantity in ("logodds", "share"):
        result = found[quantity]
        assert result["equal"]
        assert result["error"] < 1e-4
        assert result["layers"] == found["attentions"]
        assert result["grids"] == [[2, 2, 6, 5], [2, 2, 12, 10]]
        assert result["mean"] == [2, 2, 12, 10]
        assert result["calls"] == 14
    assert found["gradient"] > 0
    assert found["hooks"] == 0
