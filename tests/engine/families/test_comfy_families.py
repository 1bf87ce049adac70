"""Experts on SDXL, SD3 and FLUX networks of ComfyUI, small and random; the oracle is ComfyUI's own LoRA loader.

One script per ComfyUI version; it starts with `comfy_models.py` and ends in one line of JSON that the tests judge.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import gc, tempfile
import folder_paths, nodes
import comfy.model_management as management, comfy.sample, comfy.sd, comfy.supported_models, comfy.utils
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy, attached_experts
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

def sdxl_small():
    class Tiny(comfy.supported_models.SDXL):
        unet_extra_config = {"num_heads": -1, "num_head_channels": 16}
    config = {**UNET, "num_res_blocks": [2, 2], "transformer_depth": [0, 0, 1, 2], "transformer_depth_middle": 2,
              "transformer_depth_output": [0, 0, 0, 1, 2, 1], "use_linear_in_transformer": True,
              "adm_in_channels": 64 + 1536, "num_classes": "sequential"}
    made = Tiny(config)
    made.unet_config.update({**Tiny.unet_extra_config, **config})
    return made

def sd3_small():
    return comfy.supported_models.SD3({
        "in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 64,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 128}},
        "num_patches": 64, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None,
        "x_block_self_attn_layers": [0], "qk_norm": "rms",
    })

def flux_small():
    config = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 64, "context_in_dim": 64,
              "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2,
              "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True}
    from comfy.ldm.flux.model import FluxParams
    if "txt_ids_dims" in FluxParams.__dataclass_fields__:
        config["txt_ids_dims"] = []
    return comfy.supported_models.Flux(config)

FAMILIES = {"sdxl": (sdxl_small, 4, "input_blocks.4.1.transformer_blocks.0.attn1.to_q"),
            "sd3": (sd3_small, 16, "joint_blocks.0.x_block.attn.qkv"),
            "flux": (flux_small, 16, "double_blocks.0.img_attn.qkv")}
CASE = None

def new_model():
    config = FAMILIES[CASE][0]()
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    fill(model.diffusion_model)
    if hasattr(model.diffusion_model, "pos_embed"):
        model.diffusion_model.pos_embed.copy_(noise(1, 64, 128) * 0.1)
    return patcher_of(model)

def layers(model):
    return {name: module for name, module in model.model.diffusion_model.named_modules()
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))}

def lora_file(model, prefix, separator, keep=lambda name: True, seed=1, rank=3, down="lora_down", up="lora_up"):
    '''A LoRA of every layer under ComfyUI's own names.'''
    generator = torch.Generator().manual_seed(seed)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.7 / shape[1] ** 0.5
    state = {}
    for name, module in layers(model).items():
        if keep(name):
            shape, key = module.weight.shape, prefix + name.replace(".", separator)
            state[f"{key}.{down}.weight"] = random(rank, *shape[1:])
            state[f"{key}.{up}.weight"] = random(shape[0], rank, *[1] * (len(shape) - 2))
            state[f"{key}.alpha"] = torch.tensor(1.5)
    return state

def kohya(model, **options):
    return lora_file(model, "lora_unet_", "_", **options)

def sample(model, batch=1, cfg=1.0, steps=2, size=(12, 10), positive=None):
    channels = FAMILIES[CASE][1]
    latent = torch.zeros(batch, channels, *size)
    return comfy.sample.sample(model, noise(batch, channels, *size), steps, cfg, "euler", "simple",
                               positive or conditioning(length=9), conditioning(seed=1, length=9), latent,
                               disable_pbar=True, seed=0)

def core(model, state, strength=1.0, bypass=False):
    load = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    return load(model, None, state, strength, 0)[0]

def ours(model, state, gate=1.0, name="x", **options):
    return attach_to_comfy(model, [load_expert(state, name=name, network=model.model.diffusion_model)],
                           Gates({name: gate}, **options))

def relative(a, b):
    return far(a, b) / float(b.abs().max())

def wrapped(model):
    return sum("forward" in module.__dict__ for module in model.model.diffusion_model.modules())

def mask(seed=2, share=1.0, batch=1):
    return torch.rand(batch, 24, 20, generator=torch.Generator().manual_seed(seed)) * share

def at_layer(model, name, **options):
    '''Input and output of a layer in its first call, and the layer.'''
    module, seen = model.model.diffusion_model.get_submodule(name), []
    handle = module.register_forward_hook(lambda m, args, out: seen.append((args[0].clone(), out.clone())))
    sample(model, steps=1, **options)
    handle.remove()
    return (*seen[0], module)

def files():
    model = new_model()
    base, out = sample(model), {}
    states = {"kohya": kohya(model), "comfy": lora_file(model, "diffusion_model.", "."),
              "comfy_ab": lora_file(model, "diffusion_model.", ".", down="lora_A", up="lora_B")}
    merged = sample(core(model, states["kohya"]))
    for layout, state in states.items():
        patched = core(model, state)
        out[layout] = dict(error=relative(sample(ours(model, state)), merged), core=relative(sample(patched), merged),
                           matched=len(patched.patches) == len(layers(model)))
    with tempfile.TemporaryDirectory() as folder:
        expert = load_expert(states["kohya"], name="x", network=model.model.diffusion_model)
        save_expert(expert, folder + "/a.safetensors")
        tensors = comfy.utils.load_torch_file(folder + "/a.safetensors")
        loaded = load_expert(folder + "/a.safetensors")
        folder_paths.add_model_folder_path("loras", folder)
        patched = nodes.LoraLoaderModelOnly().load_lora_model_only(model, "a.safetensors", 1.0)[0]
    out["saved"] = dict(core=relative(sample(patched), merged), keys=sorted(tensors)[:1],
                        matched=sum(map(len, patched.patches.values())) == len(expert.layers),
                        error=relative(sample(attach_to_comfy(model, [loaded], Gates({"x": 1.0}))), merged))
    return dict(change=relative(merged, base), layouts=out, after=torch.equal(sample(model), base))

def masks():
    model, state = new_model(), None
    state = kohya(model)
    base, merged = sample(model, 2), sample(core(model, state), 2)
    full = sample(ours(model, state, torch.ones(1, 24, 20)), 2)
    half = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)])
    one = sample(ours(model, state, half), 2)
    off = [sample(ours(model, state, gate), 2) for gate in (0.0, torch.zeros(1, 4, 4))]
    partial = ours(model, state, mask())
    first = sample(partial, 2)
    return dict(full=relative(full, merged), change=relative(merged, base), off=[torch.equal(o, base) for o in off],
                none=relative(one[:1], base[:1]), other=relative(one[1:], merged[1:]), part=relative(first, base),
                again=torch.equal(sample(partial, 2), first), after=torch.equal(sample(model, 2), base),
                unwrapped=wrapped(model), cfg=relative(sample(ours(model, state, torch.ones(1, 4, 4)), cfg=3.0),
                sample(core(model, state), cfg=3.0)))

def region():
    model, name = new_model(), FAMILIES[CASE][2]
    state = kohya(model, keep=lambda n: n == name)
    area = torch.zeros(1, 12, 10)
    area[:, :8, :4] = 1
    x, y, module = at_layer(ours(model, state, area), name)
    sample(model, steps=1)
    changed = (y != module(x)).any(-1)[0].reshape(6, 5)
    return dict(equal=torch.equal(changed, area[0, ::2, ::2] > 0), restored=wrapped(model) == 0)

def sizes():
    '''One clone, run after run on latents of other sizes: nothing of a run is left in the next.'''
    model = new_model()
    state = kohya(model)
    routed = ours(model, state, mask())
    sizes = ((12, 10), (8, 8), (7, 9), (12, 10))
    first = [sample(routed, size=size) for size in sizes]
    fresh = [sample(ours(model, state, mask()), size=size) for size in sizes]
    return dict(equal=all(map(torch.equal, first, fresh)))

def unmatched():
    model = new_model()
    wrong = Expert("x", {"transformer_blocks.7.attn.to_q": LoraLayer(torch.zeros(2, 64), torch.zeros(64, 2))})
    size = Expert("x", {expert_path(model): LoraLayer(torch.zeros(2, 5), torch.zeros(64, 2))})
    return dict(layer=message(attach_to_comfy, model, [wrong], Gates()),
                size=message(attach_to_comfy, model, [size], Gates()))

def expert_path(model):
    return next(iter(load_expert(kohya(model, keep=lambda n: n == FAMILIES[CASE][2]), name="x",
                                 network=model.model.diffusion_model).layers))

def bypass():
    '''Core's own forward-wrapping LoRA on the same layers, before and after ours.'''
    if not hasattr(comfy.sd, "load_bypass_lora_for_models"):
        return None
    model = new_model()
    one, two = kohya(model), kohya(model, seed=5, rank=2)
    merged, before = sample(core(core(model, one), two)), sample(model)
    pair = [core(ours(model, one), two, bypass=True), ours(core(model, two, bypass=True), one)]
    errors = [relative(sample(m), merged) for _ in range(2) for m in pair]
    return dict(errors=errors, change=relative(merged, before), after=torch.equal(sample(model), before))

def tokens():
    '''Rows of FLUX's layers: text first in single blocks, pictures of reference latents last.'''
    if CASE != "flux":
        return None
    model, out = new_model(), {}
    reference = [[c, {**extra, "reference_latents": [noise(1, 16, 4, 6)]}] for c, extra in conditioning(length=9)]
    area = torch.zeros(1, 12, 10)
    area[:, :6] = 1
    for name in ("single_blocks.0.linear1", "double_blocks.0.txt_attn.qkv", "double_blocks.0.img_mlp.0"):
        state = kohya(model, keep=lambda n: n == name)
        for positive in (None, reference):
            x, y, module = at_layer(ours(model, state, area, shared_text="off"), name, positive=positive)
            image = [area[0, ::2, ::2].flatten() > 0] + ([torch.tensor([1, 1, 1, 0, 0, 0]) > 0] if positive else [])
            expected = torch.cat(([torch.zeros(9) > 0] if "img" not in name else [])
                                 + (image if "txt" not in name else []))
            out[f"{name} {bool(positive)}"] = torch.equal((y != module(x)).any(-1)[0], expected)
    return out

def text_rows():
    '''Which text tokens change in which half of a batch of both prompts, when one token is the expert's own.'''
    if CASE == "sdxl":
        return None
    model, order = new_model(), []
    name = {"sd3": "joint_blocks.0.context_block.attn.qkv", "flux": "double_blocks.0.txt_attn.qkv"}[CASE]
    gate = RegionGate(torch.ones(1, 4, 4), 1.0, torch.tensor([False, False, True]))
    routed = ours(model, kohya(model, keep=lambda n: n == name), gate, shared_text="off")
    def see(executor, *args, **kwargs):
        order.extend(args[5]["cond_or_uncond"])
        return executor(*args, **kwargs)
    routed.add_wrapper_with_key("apply_model", "see", see)
    x, y, module = at_layer(routed, name, cfg=3.0)
    changed = (y != module(x)).any(-1)
    return dict(order=order, changed=[row.nonzero().flatten().tolist() for row in changed])

def gradients():
    model = new_model()
    routed = ours(model, kohya(model), mask())
    predictor = ComfyPredictor(routed, None, None, ComfyHost())
    text, x = predictor.from_conditioning(conditioning(length=9)), noise(1, FAMILIES[CASE][1], 12, 10)
    with predictor.gradients():
        latent = x.clone().requires_grad_()
        parameters = [p.requires_grad_() for p in attached_experts(routed)[0].parameters()]
        loss = lambda: predictor.predict(latent, 0.5, text).eps.square().sum()
        # Of some layers the loss is so small a part that float32 cannot tell: those with the largest gradients.
        sizes = [float(g.norm()) for g in torch.autograd.grad(loss(), parameters)]
        chosen = [latent, *(parameters[at] for at in torch.tensor(sizes).topk(2).indices)]
        found = []
        for tensor, grad in zip(chosen, torch.autograd.grad(loss(), chosen)):
            step = 1e-2 * grad / grad.norm()
            with torch.no_grad():
                tensor += step
                high = loss()
                tensor -= 2 * step
                low = loss()
                tensor += step
            found.append(float((high - low) / 2e-2 / grad.norm()))
    return dict(ratios=found, zero=sum(size == 0 for size in sizes), usable=message(sample, routed))

def counted():
    model = new_model()
    state = kohya(model)
    routed = ours(model, state, mask())
    sample(routed)
    loaded = management.current_loaded_models
    size = sum(p.numel() * p.element_size() for p in attached_experts(routed)[0].parameters())
    models = {id(m.model.model): m.model_memory() for m in loaded}
    own = [p for p in routed.get_nested_additional_models()]
    return dict(size=size, counted=[models.get(id(p.model)) for p in own], names=[type(p.model).__name__ for p in own])

TESTS = (files, masks, region, sizes, unmatched, bypass, tokens, text_rows, gradients, counted)
with torch.inference_mode():
    result = {}
    for CASE in FAMILIES:
        result[CASE] = {test.__name__: test() for test in TESTS}
    print(json.dumps(result))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def everything(request):
    return request.getfixturevalue(request.param)(MODELS + SCRIPT)


@pytest.fixture(params=["sdxl", "sd3", "flux"])
def found(request, everything):
    return everything[request.param]


def test_every_layout_has_the_effect_it_has_in_comfyui(found):
    found = found["files"]
    assert found["change"] > 1e-2
    for layout in found["layouts"].values():
        assert layout["matched"]
        assert layout["core"] < 1e-5
        assert layout["error"] < 1e-5
    assert found["after"]


def test_saved_files_have_the_names_that_comfyui_reads_for_that_network(everything):
    first = {name: found["files"]["layouts"]["saved"]["keys"][0] for name, found in everything.items()}
    assert first["sdxl"].startswith("lora_unet_")
    assert first["sd3"].startswith("transformer.")
    assert first["flux"].startswith("transformer.")


def test_a_full_mask_is_the_merged_network_and_an_empty_one_the_base(found):
    found = found["masks"]
    assert found["change"] > 1e-2
    assert found["full"] < 1e-5
    assert found["cfg"] < 1e-5
    assert found["off"] == [True, True]
    assert found["none"] < 1e-6
    assert found["other"] < 1e-5
    assert found["part"] > 1e-3


def test_runs_repeat_and_leave_nothing_behind(found):
    assert found["masks"]["again"]
    assert found["masks"]["after"]
    assert found["masks"]["unwrapped"] == 0


def test_a_region_changes_the_image_tokens_in_it(found):
    assert found["region"] == {"equal": True, "restored": True}


def test_every_run_reads_the_masks_anew(found):
    assert found["sizes"]["equal"]


def test_what_does_not_fit_is_reported(found):
    assert "transformer_blocks.7.attn.to_q" in found["unmatched"]["layer"]
    assert "5" in found["unmatched"]["size"]
    assert "RegionStyleError" in found["unmatched"]["size"]


def test_core_bypass_adapters_on_the_same_layers(found):
    found = found["bypass"]
    if found is None:
        pytest.skip("this ComfyUI has no bypass adapters")
    assert found["change"] > 1e-2
    assert max(found["errors"]) < 1e-4
    assert found["after"]


def test_flux_rows_are_text_then_picture_then_reference_pictures(everything):
    found = everything["flux"]["tokens"]
    assert len(found) == 6
    assert all(found.values())


@pytest.mark.parametrize("network", ["sd3", "flux"])
def test_words_of_an_expert_count_in_the_positive_prompt(everything, network):
    found = everything[network]["text_rows"]
    assert sorted(found["order"]) == [0, 1]
    assert found["changed"] == [[2] if index == 0 else [] for index in found["order"]]


def test_gradients_through_masked_experts_agree_with_finite_differences(found):
    assert found["gradients"]["ratios"] == pytest.approx([1, 1, 1], rel=0.02)
    assert found["gradients"]["zero"] <= 2  # in SD3's last block nothing reads the text's queries
    assert found["gradients"]["usable"] == "no error"


def test_the_experts_memory_is_counted(found):
    found = found["counted"]
    assert found["counted"] == [found["size"]]
