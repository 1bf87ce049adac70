"""Experts beside other clones, other packs' injections and ComfyUI's own bypass adapters, in any order.

One script per ComfyUI version; it starts with `comfy_models.py` and ends in one line of JSON that the tests judge.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import gc, itertools
import comfy.model_management as management, comfy.sample, comfy.sd
from comfy.patcher_extension import PatcherInjection
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates

def lora(model, seed=1, rank=2):
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.5 / shape[1] ** 0.5
    state = {}
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            shape, key = module.weight.shape, "lora_unet_" + name.replace(".", "_")
            state[key + ".lora_down.weight"] = random(rank, *shape[1:])
            state[key + ".lora_up.weight"] = random(shape[0], rank, *[1] * (len(shape) - 2))
    return state

def with_expert(model, seed=1, name="sketch", gate=1.0):
    network = model.model.diffusion_model
    return attach_to_comfy(model, [load_expert(lora(model, seed), name=name, network=network)], Gates({name: gate}))

def merged(model, seed=1):
    return comfy.sd.load_lora_for_models(model, None, lora(model, seed), 1.0, 0)[0]

class Foreign:
    '''Another pack, as packs do it: keeps the forward it finds, and puts that back. Adds a tenth to each output.'''

    def __init__(self, delete=False):
        self.kept, self.delete = {}, delete

    def inject(self, patcher):
        for module in patcher.model.diffusion_model.modules():
            if isinstance(module, torch.nn.Linear) and module not in self.kept:
                found = self.kept[module] = module.forward
                module.forward = lambda x, *a, found=found, **kw: found(x, *a, **kw) + 0.1

    def eject(self, patcher):
        for module, found in self.kept.items():
            module.forward = found
            if self.delete and getattr(found, "__func__", None) is type(module).forward:
                del module.forward
        self.kept.clear()

def with_foreign(model, delete=False):
    model, foreign = model.clone(), Foreign(delete)
    model.set_injections("foreign", [PatcherInjection(foreign.inject, foreign.eject)])
    return model

def with_bypass(model):
    return comfy.sd.load_bypass_lora_for_models(model, None, lora(model, 7), 1.0, 0)[0]

def sample(model, steps=2):
    latent = torch.zeros(1, 4, 12, 10)
    return comfy.sample.sample(model, noise(1, 4, 12, 10), steps, 4.0, "euler", "normal", conditioning(),
                               conditioning(seed=1), latent, disable_pbar=True, seed=0)

def relative(a, b):
    return far(a, b) / float(b.abs().max())

def wrapped(model):
    return sum("forward" in module.__dict__ for module in model.model.diffusion_model.modules())

def depth(model):
    '''The longest chain of wrappers of ours.'''
    longest = 0
    for module in model.model.diffusion_model.modules():
        forward, length = module.__dict__.get("forward"), 0
        while hasattr(forward, "original"):
            forward, length = forward.original, length + 1
        longest = max(longest, length)
    return longest

def together(others):
    '''Every order of attaching; then all of them, parts of them and none, one after the other and again.'''
    model = sd_model()
    before = sample(model)
    kinds = {"expert": with_expert, "second": lambda m: with_expert(m, 5, "oil"), **others}
    names = list(kinds)
    chains = [order for count in (1, 2, 3) for order in itertools.permutations(names, count)]
    def made(order, start=model):
        for name in order:
            start = kinds[name](start)
        return start
    def expected(order):
        base = model
        for name, seed in (("expert", 1), ("second", 5), ("bypass", 7)):
            base = merged(base, seed) if name in order else base
        return sample(with_foreign(base) if "foreign" in order else base)
    wanted = {frozenset(order): None for order in chains}
    wanted = {key: expected(key) for key in wanted}
    models, errors, depths = [(order, made(order)) for order in chains], [], []
    for at in range(len(models) * 2):
        order, routed = models[(at * 7) % len(models)]
        errors.append(relative(sample(routed), wanted[frozenset(order)]))
        depths.append(depth(model))
        if at % 5 == 0:
            errors.append(0.0 if torch.equal(sample(model), before) else 1.0)
    least = min(relative(value, before) for value in wanted.values())
    after = torch.equal(sample(model), before)
    del models, routed
    gc.collect()
    left = depth(model)
    return dict(error=max(errors), least=least, after=after, again=torch.equal(sample(model), before),
                depth=max(depths), left=left, runs=len(errors))

def foreign():
    return together({"foreign": with_foreign})

def foreign_deleting():
    return together({"foreign": lambda model: with_foreign(model, True)})

def bypass():
    return together({"bypass": with_bypass}) if hasattr(comfy.sd, "load_bypass_lora_for_models") else None

def cut_off():
    '''Somebody below us leaves during a run, and takes us out with what they put back.'''
    model, out = sd_model(), {}
    routed = with_expert(model)
    alone, before = sample(routed), sample(model)
    for delete in (False, True):
        other, leaving = Foreign(delete), routed.clone()
        def leave(executor, *args, other=other):
            other.eject(routed)
            return executor(*args)
        leaving.add_wrapper_with_key("calc_cond_batch", "leave", leave)
        management.unload_all_models()
        other.inject(routed)
        out[f"delete {delete}"] = torch.equal(sample(leaving), alone)
    return dict(out, change=relative(alone, before), after=torch.equal(sample(model), before))

def holders():
    '''Clones of a loaded MODEL count as injected, and ComfyUI ejects them when they are deleted.'''
    model = sd_model()
    before, routed = sample(model), with_expert(model)
    wanted, seen = sample(routed), []
    def meddle(executor, *args, **kwargs):
        clone = executor.class_obj.current_patcher.clone()
        seen.append(clone.is_injected)
        del clone
        gc.collect()
        return executor(*args, **kwargs)
    meddled = routed.clone()
    meddled.add_wrapper_with_key("apply_model", "meddle", meddle)
    during = torch.equal(sample(meddled), wanted)
    del meddled
    gc.collect()
    again, inside = torch.equal(sample(routed), wanted), wrapped(model)
    clone = routed.clone()
    del routed
    gc.collect()
    last = torch.equal(sample(clone), wanted)
    del clone
    gc.collect()
    return dict(seen=seen, during=during, inside=inside, again=again, last=last, left=wrapped(model),
                after=torch.equal(sample(model), before), change=relative(wanted, before))

def injected_but_off():
    '''What ComfyUI leaves injected between runs acts on nobody, also after an error.'''
    model = sd_model()
    x, sigma, text = noise(1, 4, 12, 10), torch.ones(1), noise(1, 77, 64)
    call = lambda: model.model.apply_model(x, sigma, c_crossattn=text, transformer_options={})
    sample(model)
    before = call()
    routed = with_expert(model)
    sample(routed)
    inside, idle = wrapped(model), torch.equal(call(), before)
    handle = model.model.diffusion_model.out.register_forward_hook(lambda *a: 1 / 0)
    error = message(sample, routed)
    handle.remove()
    return dict(inside=inside, idle=idle, error=error, after_error=torch.equal(call(), before))

with torch.inference_mode():
    tests = (foreign, foreign_deleting, bypass, cut_off, holders, injected_but_off)
    print(json.dumps({test.__name__: test() for test in tests}))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def found(request):
    return request.getfixturevalue(request.param)(MODELS + SCRIPT)


@pytest.mark.parametrize("other", ["foreign", "foreign_deleting", "bypass"])
def test_any_order_of_attaching_and_leaving(found, other):
    found = found[other]
    if found is None:
        pytest.skip("this ComfyUI has no bypass adapters")
    assert found["least"] > 1e-3
    assert found["error"] < 1e-4
    assert found["runs"] > 30
    assert found["after"]
    assert found["again"]
    assert found["depth"] <= 2  # two experts' stacks at most: nothing piles up
    assert found["left"] == 0


def test_experts_come_back_when_somebody_took_them_out_of_a_layer(found):
    found = found["cut_off"]
    assert found["change"] > 1e-3
    assert found["delete False"]
    assert found["delete True"]
    assert found["after"]


def test_a_deleted_clone_of_a_loaded_model_takes_no_experts_away(found):
    found = found["holders"]
    assert found["change"] > 1e-3
    assert all(found["seen"])
    assert found["during"]
    assert found["inside"] > 20
    assert found["again"]
    assert found["last"]


def test_the_last_clone_leaves_nothing_behind(found):
    assert found["holders"]["left"] == 0
    assert found["holders"]["after"]


def test_experts_left_injected_between_runs_act_on_nobody(found):
    found = found["injected_but_off"]
    assert found["inside"] > 20
    assert found["idle"]
    assert "ZeroDivisionError" in found["error"]
    assert found["after_error"]
