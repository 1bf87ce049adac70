"""FLUX with reference latents (Kontext): masks reach the right tokens of every picture, whatever else is attached.

A small random network of ComfyUI's FLUX class. The oracles are ComfyUI's own LoRA loader and, for masks, which rows of
a layer's output change.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TEXT = 9
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.controlnet, comfy.ldm.flux.controlnet, comfy.model_management as management, comfy.ops, comfy.sample
import comfy.sd, node_helpers
from nodes import ControlNetApplyAdvanced
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

METHODS = ("offset", "index", "uxo")  # the fourth, index_timestep_zero, does not run on this class in ComfyUI
SIZE, REFERENCES, TEXT = (12, 10), ((8, 6), (5, 7)), 9
OWN = torch.arange(TEXT) // 3 == 1
NOBODY = torch.zeros(TEXT, dtype=torch.bool)
GRIDS = [(6, 5), (4, 3), (3, 4)]  # tokens of the picture and of each reference; odd sizes are padded

def lora(model, seed=1, keep=lambda name: True):
    '''A kohya file for the Linear layers of the blocks; masks average over modulations, which are left out here.'''
    found, generator = {}, torch.Generator().manual_seed(seed)
    for name, module in model.model.diffusion_model.named_modules():
        if "blocks" in name and "mod" not in name and hasattr(module, "in_features") and keep(name):
            base = "lora_unet_" + name.replace(".", "_")
            found[base + ".lora_down.weight"] = torch.randn(2, module.in_features, generator=generator) * 0.2
            found[base + ".lora_up.weight"] = torch.randn(module.out_features, 2, generator=generator) * 0.2
    return found

def merged(model, seed=1, strength=1.0):
    return comfy.sd.load_lora_for_models(model, None, lora(model, seed), strength, 0)[0]

def routed(model, gate, seed=1, name="one", keep=lambda name: True):
    expert = load_expert(lora(model, seed, keep), name=name, network=model.model.diffusion_model)
    return attach_to_comfy(model, [expert], Gates({name: gate}))

def prompt(method=None, references=REFERENCES, seed=0):
    cond = conditioning(seed, 64, 48, TEXT)
    values = {"reference_latents": [noise(1, 16, *size, seed=9 + at) for at, size in enumerate(references)]}
    if method:
        values["reference_latents_method"] = method
    return node_helpers.conditioning_set_values(cond, values) if references else cond

def sample(model, positive, batch=1, steps=2, cfg=1.0, negative=None):
    return comfy.sample.sample(model, noise(batch, 16, *SIZE), steps, cfg, "euler", "normal", positive,
                               negative or positive, torch.zeros(batch, 16, *SIZE), disable_pbar=True, seed=0)

def relative(a, b):
    return float((a - b).norm() / b.norm())

def rows(model, name, gate, positive):
    '''Which rows of a layer the expert changes in one step: compared with the layer itself on the same input.'''
    seen, layer = [], dict(model.model.diffusion_model.named_modules())[name]
    handle = layer.register_forward_hook(lambda m, args, y: seen.append((args[0].clone(), y.clone())))
    sample(routed(model, gate, keep=lambda n: n == name), positive, steps=1)
    handle.remove()
    x, y = seen[0]
    return (y != layer(x)).any(-1)

def expected(area, text, image, owned=NOBODY):
    '''By resizing the mask to each grid by area, as a token sees it; of the text the words that the style owns.'''
    parts = [owned.expand(len(area), TEXT)] if text else []
    for grid in GRIDS if image else []:
        parts.append(torch.nn.functional.interpolate(area[:, None], size=grid, mode="area")[:, 0].flatten(1) > 0)
    return torch.cat(parts, 1)

def positions():
    model, out = flux_model(), {}
    area = torch.zeros(1, 24, 20)
    area[:, :12, :8] = 1
    for method in METHODS:
        for name in ("single_blocks.1.linear1", "single_blocks.0.linear2", "double_blocks.0.img_attn.qkv",
                     "double_blocks.0.img_mlp.0", "double_blocks.0.txt_attn.qkv"):
            wanted = expected(area, "img" not in name, "txt" not in name)
            gate = RegionGate(area, shared_text="off")
            out[f"{method} {name}"] = torch.equal(rows(model, name, gate, prompt(method)), wanted)
            wanted = expected(area, "img" not in name, "txt" not in name, OWN)
            gate = RegionGate(area, owned_tokens=OWN, shared_text="off")
            out[f"{method} {name} with words"] = torch.equal(rows(model, name, gate, prompt(method)), wanted)
    out["changed"] = [int(part.sum()) for part in expected(area, False, True).split([30, 12, 12], 1)]
    return out

def whole():
    out, model = {}, flux_model()
    for method in METHODS:
        positive = prompt(method)
        base, oracle = sample(model, positive), sample(merged(model), positive)
        out[method] = dict(full=relative(sample(routed(model, torch.ones(1, 6, 5)), positive), oracle),
                           none=torch.equal(sample(routed(model, torch.zeros(1, 6, 5)), positive), base),
                           change=relative(oracle, base), after=torch.equal(sample(model, positive), base))
    positive = prompt()
    both = torch.stack([torch.ones(6, 5), torch.zeros(6, 5)])
    two = sample(routed(model, both), positive, batch=2)
    out["batch"] = [relative(two[:1], sample(merged(model), positive, batch=2)[:1]),
                    relative(two[1:], sample(model, positive, batch=2)[1:])]
    out["references matter"] = relative(sample(model, prompt(references=())), sample(model, positive))
    left = torch.zeros(1, 6, 5)
    left[..., :3] = 1
    pair = routed(routed(model, left), 1 - left, seed=5, name="two")
    out["two"] = [relative(sample(pair, positive), sample(other, positive))
                  for other in (model, routed(model, left), routed(model, 1 - left, seed=5, name="two"))]
    out["with negative"] = relative(
        sample(routed(model, torch.ones(1, 6, 5)), positive, cfg=3.0, negative=prompt(references=(), seed=3)),
        sample(merged(model), positive, cfg=3.0, negative=prompt(references=(), seed=3)))
    return out

def control_net(hint=(3,)):
    shape = dict(in_channels=16, out_channels=16, vec_in_dim=48, context_in_dim=64, hidden_size=64, mlp_ratio=4.0,
                 num_heads=4, depth=1, depth_single_blocks=1, axes_dim=[4, 6, 6], theta=10000, patch_size=2,
                 qkv_bias=True, guidance_embed=True, txt_ids_dims=[])
    network = comfy.ldm.flux.controlnet.ControlNetFlux(operations=comfy.ops.disable_weight_init,
        dtype=torch.float32, device="cpu", **shape)
    network.main_model_double, network.main_model_single = 1, 2
    fill(network, seed=8)
    return comfy.controlnet.ControlNet(network, load_device=management.get_torch_device(),
                                       extra_conds=["y", "guidance"])

def guests():
    '''Beside a ControlNet, an ordinary LoRA, and another pack's patches: as if ours were merged.'''
    model, out, everywhere = flux_model(), {}, torch.ones(1, 6, 5)
    seen = []

    def override(func, q, k, v, heads, *args, **kwargs):
        seen.append(q.shape[-2])
        return func(q, k, v, heads, *args, **kwargs) * 0.9

    def block(args, extra):
        made = extra["original_block"](args)
        return {**made, "img": made["img"] * 0.8}

    def wrapper(apply, args):
        return apply(args["input"], args["timestep"], **args["c"]) * 1.1

    def with_patches(patched):
        patched = patched.clone()
        patched.model_options["transformer_options"]["optimized_attention_override"] = override
        patched.set_model_patch_replace(block, "dit", "double_block", 0)
        patched.set_model_patch_replace(block, "dit", "single_block", 1)
        patched.set_model_unet_function_wrapper(wrapper)
        return patched

    hint = torch.rand(1, 96, 80, 3, generator=torch.Generator().manual_seed(1))
    plain, references = prompt(references=()), prompt()

    def controlled(cond):
        return ControlNetApplyAdvanced().apply_controlnet(cond, cond, control_net(), hint, 0.9, 0.0, 1.0)[0]

    patched_oracle = lambda m: with_patches(merged(m))
    cases = {
        "lora after": (lambda m: merged(routed(m, everywhere), 5), lambda m: merged(merged(m), 5), references),
        "lora before": (lambda m: routed(merged(m, 5), everywhere), lambda m: merged(merged(m), 5), references),
        "patches after": (lambda m: with_patches(routed(m, everywhere)), patched_oracle, references),
        "patches before": (lambda m: routed(with_patches(m), everywhere), patched_oracle, references),
        "control": (lambda m: routed(m, everywhere), merged, controlled(plain)),
        "control and references": (lambda m: routed(m, everywhere), merged, controlled(references)),
        "all": (lambda m: with_patches(merged(routed(m, everywhere), 5)),
                lambda m: with_patches(merged(merged(m), 5)), controlled(references)),
    }
    for name, (ours, oracle, positive) in cases.items():
        without = sample(with_patches(model) if "patches" in name else model, positive)
        wanted = sample(oracle(model), positive)
        out[name] = dict(error=relative(sample(ours(model), positive), wanted), change=relative(wanted, without))
    out["control acts"] = relative(sample(model, controlled(references)), sample(model, references))
    out["override saw"] = sorted(set(seen))
    return out

def isolated():
    '''Words that are read in their own region only: the picture elsewhere does not see them, references included.'''
    model, out = flux_model(), {}
    area = torch.zeros(1, 12, 10)
    area[:, :6] = 1
    own = torch.zeros(TEXT, dtype=torch.bool)
    own[2:5] = True
    gate = RegionGate(area, 1.0, own, shared_text="off", visible_tokens=torch.ones(TEXT, dtype=torch.bool))
    expert = load_expert(lora(model), name="one", network=model.model.diffusion_model)
    patched = attach_to_comfy(model, [expert], Gates({"one": gate}, rest_visible_tokens=~own))
    cond = prompt()
    changed = [[cond[0][0].clone(), cond[0][1]]]
    changed[0][0][:, 2:5] += 3.0
    seen = []
    layer = model.model.diffusion_model.double_blocks[0].img_attn.proj
    handle = layer.register_forward_hook(lambda m, args, y: seen.append(args[0].clone()))
    for positive in (cond, changed):
        sample(patched, positive, steps=1)
    free = routed(model, RegionGate(area, 1.0, own, shared_text="off"))
    for positive in (cond, changed):
        sample(free, positive, steps=1)
    handle.remove()
    inside = torch.nn.functional.interpolate(area[:, None], size=GRIDS[0], mode="area")[0, 0].flatten() > 0
    far_rows = lambda a, b: (a - b).abs().amax((0, -1))
    hidden, read = far_rows(seen[0], seen[1]), far_rows(seen[2], seen[3])
    out["outside"] = float(hidden[:30][~inside].max())
    out["inside"] = float(hidden[:30][inside].min())
    out["free"] = float(read[:30][~inside].min())
    return out

with torch.inference_mode():
    print(json.dumps(dict(positions=positions(), whole=whole(), guests=guests(), isolated=isolated())))
"""


@pytest.fixture(scope="module")
def found(run_in_comfy):
    return run_in_comfy(MODELS + SCRIPT)


def test_masks_reach_the_tokens_of_the_picture_and_of_each_reference(found):
    positions = found["positions"]
    counts = positions.pop("changed")
    assert all(0 < count < total for count, total in zip(counts, (30, 12, 12), strict=True))
    assert len(positions) == 30
    assert all(positions.values()), [name for name, equal in positions.items() if not equal]


@pytest.mark.parametrize("method", ["offset", "index", "uxo"])
def test_a_full_mask_is_the_merged_network_and_an_empty_one_the_base(found, method):
    result = found["whole"][method]
    assert result["change"] > 0.01
    assert result["full"] < 1e-5
    assert result["none"]
    assert result["after"]


def test_batches_pairs_and_a_negative_prompt_without_references(found):
    result = found["whole"]
    assert max(result["batch"]) < 1e-5
    assert result["references matter"] > 0.01
    assert min(result["two"]) > 0.01
    assert result["with negative"] < 1e-5


def test_beside_a_control_net_an_ordinary_lora_and_other_packs_patches(found):
    guests = found["guests"]
    assert guests.pop("control acts") > 0.01
    assert guests.pop("override saw") == [TEXT + 30 + 24]
    for name, result in guests.items():
        assert result["change"] > 0.01, name
        assert result["error"] < 1e-5, name


def test_isolated_words_are_not_read_outside_their_region(found):
    result = found["isolated"]
    assert result["outside"] == 0
    assert result["inside"] > 1e-3
    assert result["free"] > 1e-3
