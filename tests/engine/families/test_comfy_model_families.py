"""Predictor, attention tap and gradients on small models of every class, inside ComfyUI's interpreter and prompts.

Each script starts with `family_models.py` and `comfy_models.py` and ends in one line of JSON that the tests judge.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
SUPPORT = Path(__file__).parents[2] / "support"
MODELS = (SUPPORT / "family_models.py").read_text() + (SUPPORT / "comfy_models.py").read_text()
NEW = ["sd", "v", "sdxl", "sd3", "sd35", "flux", "schnell"]
OLD = ["sd", "v"]
GPU_ROUNDING = 1e-4  # between two runs of the same network, and of its matrix products
IN_DIFFUSERS = ["sdxl", "sd3", "sd35", "flux", "schnell"]

IN_PROMPT = """
def in_prompt(work):
    # Run a function as ComfyUI runs a node: in a prompt, by its executor.
    import uuid
    from types import SimpleNamespace
    import execution
    import nodes

    box = []

    class Probe:
        RETURN_TYPES, FUNCTION, OUTPUT_NODE, CATEGORY = (), "run", True, "probe"
        INPUT_TYPES = classmethod(lambda cls: {"required": {}})

        def run(self):
            assert torch.is_inference_mode_enabled()
            box.append(work())
            return {}

    nodes.NODE_CLASS_MAPPINGS["RegionStyleProbe"] = Probe
    stub = SimpleNamespace(client_id=None, last_node_id=None, sockets_metadata={}, send_sync=lambda *a, **k: None)
    options = {}
    if hasattr(execution.CacheType, "RAM_PRESSURE"):
        options = {"cache_type": execution.CacheType.CLASSIC, "cache_args": {"lru": 0, "ram": 0, "ram_inactive": 0}}
    executor = execution.PromptExecutor(stub, **options)
    executor.execute({"1": {"class_type": "RegionStyleProbe", "inputs": {}}}, str(uuid.uuid4()), {}, ["1"])
    assert executor.success, executor.status_messages[-1]
    return box[0]
"""

SAMPLING = """
import comfy.samplers
from dataclasses import replace
from regionstyle.nodes.engine.predictor.base import Extras
from regionstyle.nodes.engine.predictor.sampling import ddim

TIMES = [0.9, 0.6, 0.3, 0.05, 0.0]
SIZE = (8, 10)

def sampled(model, start, positive, negative, sigmas):
    # What ComfyUI's own sampler makes of the same conditionings: the latent inside it at the end.
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(3.0)
    result = guider.sample(start, torch.zeros_like(start), comfy.samplers.ksampler("euler"), sigmas, disable_pbar=True)
    return model.model.process_latent_in(result)

def against_sampler(family):
    model = comfy_model(family)
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    positive, negative = family_conditioning(family), family_conditioning(family, seed=1)
    start = noise(2, COMFY_SHAPES[family][3], *SIZE)
    alpha, sigma = predictor.alpha_sigma(torch.tensor(TIMES, dtype=torch.float64))
    flow = family in ("sd3", "sd35", "flux", "schnell")
    sigmas = (sigma if flow else sigma / alpha).float()
    sigmas[-1] = 0  # ddim's last step gives the clean latent, too
    theirs = sampled(model, start, positive, negative, sigmas)
    # At its first level ComfyUI's sampler starts from sigma * noise.
    first = start * float(sigma[0])
    texts = [predictor.from_conditioning(c) for c in (positive, negative)]
    with predictor.loaded():
        ours = ddim(predictor, first, TIMES, texts[0], negative=texts[1], cfg=3.0)
    return [far(ours, theirs), float(theirs.abs().max()), far(ours, first)]

def extras(family, given, cond):
    # Told through Text.extras, and as ComfyUI's nodes write them into a conditioning.
    predictor = ComfyPredictor(comfy_model(family), None, None, ComfyHost())
    plain = family_conditioning(family)
    text = predictor.from_conditioning(plain)
    x = noise(1, COMFY_SHAPES[family][3], *SIZE)
    told = predictor.predict(x, 0.5, replace(text, extras=given)).eps
    native = predictor.from_conditioning([[states, {**extra, **cond}] for states, extra in plain])
    both = replace(text + predictor.from_conditioning(family_conditioning(family, seed=1)), extras=given)
    return {
        "same": far(told, predictor.predict(x, 0.5, native).eps),
        "apart": far(told, predictor.predict(x, 0.5, text).eps),
        "batch": far(told, predictor.predict(x.repeat(2, 1, 1, 1), 0.5, both).eps[:1]),
    }

def refused(family, given):
    predictor = ComfyPredictor(comfy_model(family), None, None, ComfyHost())
    text = replace(predictor.from_conditioning(family_conditioning(family)), extras=given)
    return message(predictor.predict, noise(1, COMFY_SHAPES[family][3], *SIZE), 0.5, text)

with torch.inference_mode():
    out = {family: against_sampler(family) for family in FAMILIES}
    if "sdxl" in FAMILIES:
        sizes = {"height": 512, "width": 768, "crop_h": 16, "crop_w": 32, "target_height": 640, "target_width": 896}
        given = Extras(original=(512, 768), crop=(16, 32), target=(640, 896))
        out["sizes"] = extras("sdxl", given, sizes)
        out["guidance"] = extras("flux", Extras(guidance=2.0), {"guidance": 2.0})
        out["refused"] = [refused("sd", given), refused("schnell", Extras(guidance=2.0)), refused("flux", given)]
print(json.dumps(out))
"""

DIFFUSERS = """
from dataclasses import replace
import comfy.model_detection
import comfy.utils
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.predictor.base import Extras

class Vae:
    class config:
        block_out_channels = (1, 2, 3, 4)

def converted(family, model, network):
    # The conversion writes in place.
    state = {key: value.clone() for key, value in network.state_dict().items()}
    if family == "sdxl":
        table = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
        return {table[key]: value for key, value in state.items()}
    result = comfy.model_detection.convert_diffusers_mmdit(state)
    assert not state or set(state) <= {"pos_embed.pos_embed"}, list(state)
    if family.startswith("sd3"):
        result["pos_embed"] = network.pos_embed.pos_embed
    return result

def compare(family):
    network, model = diffusers_network(family), comfy_model(family)
    missing = model.model.diffusion_model.load_state_dict(converted(family, model, network), strict=False)
    assert not missing.unexpected_keys and not missing.missing_keys, missing
    theirs = DiffusersPredictor(network, Vae, None, None, diffusers_scheduler(family), LocalHost("cpu"))
    ours = ComfyPredictor(model, None, None, ComfyHost())
    given = {"sdxl": Extras(original=(512, 768), crop=(16, 32), target=(640, 896)), "flux": Extras(guidance=2.0)}
    text, found = ours.from_conditioning(family_conditioning(family)), []
    for t in (0.0, 0.25, 0.75, 1.0, torch.tensor([0.2, 0.6])):
        for size in ((16, 12), (9, 14)) if family != "sdxl" else ((16, 12),):
            for told in {Extras(), given.get(family, Extras())}:
                x, same = noise(2, COMFY_SHAPES[family][3], *size), replace(text, extras=told)
                a, b = ours.predict(x, t, same), theirs.predict(x, t, same)
                found.append([far(a.eps, b.eps), far(a.denoised, b.denoised) / float(b.denoised.abs().max())])
    return [max(e for e, _ in found), max(d for _, d in found), float(a.eps.std())]

with torch.inference_mode():
    out = {family: compare(family) for family in FAMILIES}
print(json.dumps(out))
"""

TAP = """
from regionstyle.nodes.engine.attention.tap import AttentionTap

GROUPS = [[1, 2], [5]]
SIZE = (9, 14)

def by_definition(q, k, valid, quantity):
    logits = q @ k.mT * q.shape[-1] ** -0.5
    maps, valid = [], valid.to(q.device)
    for group in GROUPS:
        inside = torch.zeros(k.shape[2], dtype=torch.bool, device=q.device)
        inside[group] = True
        if quantity == "share":
            maps.append(logits.masked_fill(~valid, -torch.inf).softmax(-1)[..., inside].sum(-1).mean(1))
        else:
            rest = valid & ~inside
            odds = logits[..., inside].logsumexp(-1) - logits[..., rest].logsumexp(-1)
            maps.append(odds.mean(1) - torch.log(inside.sum() / rest.sum()))
    return torch.stack(maps, 1)

def watched(family):
    model = comfy_model(family)
    length = COMFY_SHAPES[family][0]
    seen, counts = [], [0]

    def other_pack(func, q, k, v, heads, *args, **kwargs):
        counts[0] += 1
        by_head = (q, k) if kwargs.get("skip_reshape") else (
            x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
        seen.append(tuple(x.clone() for x in by_head))
        return func(q, k, v, heads, *args, **kwargs) * 0.5

    model.model_options["transformer_options"]["optimized_attention_override"] = other_pack
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    x = noise(2, COMFY_SHAPES[family][3], *SIZE)
    text, other = (predictor.from_conditioning(family_conditioning(family, seed)) for seed in (0, 1))
    valid = torch.zeros(length, dtype=torch.bool)
    valid[1:12] = True
    options = dict(model.model_options["transformer_options"])
    plain = predictor.predict(x, 0.4, text).eps
    calls, differences, shapes = counts[0], [], []
    for quantity in ("logodds", "share"):
        seen.clear()
        with AttentionTap(predictor, GROUPS, valid=valid, quantity=quantity) as tap:
            same = predictor.predict(x, 0.4, text).eps
        assert counts[0] == 2 * calls, "the other pack's override was not kept"
        counts[0] = calls
        if family in ("sd", "v", "sdxl"):
            pairs = [(q, k) for q, k in seen if k.shape[2] == length]
        else:
            pairs = [(q[:, :, length:], k[:, :, :length]) for q, k in seen if q.shape[2] == length + 5 * 7]
        assert len(pairs) == len(tap.maps)
        # The network runs its blocks in another order than it lists them: compare by the closest.
        for found in tap.maps.values():
            shapes.append(list(found.shape[1:]))
            same_size = [by_definition(q, k, valid, quantity) for q, k in pairs if q.shape[2] == found[0, 0].numel()]
            differences.append(min(far(found.flatten(2), wanted) for wanted in same_size))
        size = float(torch.stack([m.std() for m in tap.maps.values()]).min())
    with AttentionTap(predictor, GROUPS, valid=valid) as tap:
        predictor.predict_pair(x, 0.4, text, other)
    batch = {len(m) for m in tap.maps.values()}
    modules = list(model.model.modules())
    def broken():
        with AttentionTap(predictor, GROUPS):
            raise RuntimeError("in the middle")
    message(broken)
    return {"paths": list(tap.maps), "differences": max(differences), "size": size, "shapes": shapes,
            "output": far(plain, same), "batch": sorted(batch),
            "options": model.model_options["transformer_options"] == options,
            "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)}

def removed_attention():
    # A block whose attention another pack took away: an error, not a map of something else.
    model = comfy_model("sd3")
    skip = lambda args, extra: {"img": args["img"], "txt": args["txt"]}
    block = model.model.diffusion_model.joint_blocks[0]
    block.forward = lambda context, x, **kwargs: (context, x)
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text = predictor.from_conditioning(family_conditioning("sd3"))
    with AttentionTap(predictor, GROUPS):
        return message(predictor.predict, noise(1, 16, 8, 8), 0.4, text)

with torch.inference_mode():
    out = {family: watched(family) for family in FAMILIES}
    if "sd3" in FAMILIES:
        out["removed"] = removed_attention()
print(json.dumps(out))
"""

GRADIENTS = (
    IN_PROMPT
    + """
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.host.gradients import ordinary
import comfy.model_management as management

def slopes(predictor, x, text, channels, target, weight):
    # Of two losses, on the prediction and on a map of words: gradient along a direction, and finite difference.
    def of_prediction(latent):
        return (predictor.predict(latent, 0.5, text).denoised.double() * target).sum()

    def of_map(latent):
        with AttentionTap(predictor, [[1, 2], [5]]) as tap:
            predictor.predict(latent, 0.5, text)
        return (tap.mean((8, 10)).double().to(weight.device) * weight).sum()

    found = []
    for loss in (of_prediction, of_map):
        latent = ordinary(x).requires_grad_()
        gradient, = torch.autograd.grad(loss(latent), latent)
        way = gradient / gradient.norm() + ordinary(noise(1, channels, 8, 10, seed=9)) / (channels * 80) ** 0.5
        with torch.no_grad():
            # Two steps of different length cancel the curvature (Richardson).
            one, two = ((float(loss(latent + s * way)) - float(loss(latent - s * way))) / (2 * s) for s in (0.02, 0.04))
        found.append([float((gradient * way).sum()), (4 * one - two) / 3])
    return found

def differentiate(family):
    model, channels = comfy_model(family), COMFY_SHAPES[family][3]
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    text = predictor.from_conditioning(family_conditioning(family))
    x, target, weight = noise(1, channels, 8, 10), noise(1, channels, 8, 10, seed=5), noise(1, 2, 8, 10, seed=6)
    assert all(parameter.is_inference() for parameter in model.model.diffusion_model.parameters())
    plain = predictor.predict(x, 0.5, text).eps
    before = [*model.model.parameters(), *model.model.buffers()]
    with predictor.gradients():
        found = slopes(predictor, x, text, channels, ordinary(target).double(), ordinary(weight).double())
    after = [*model.model.parameters(), *model.model.buffers()]
    return {"slopes": found, "restored": all(a is b for a, b in zip(before, after)),
            "still": far(plain, predictor.predict(x, 0.5, text).eps),
            "flag": getattr(management, "in_training", False)}

out = {family: in_prompt(lambda: differentiate(family)) for family in FAMILIES}
print(json.dumps(out))
"""
)


@pytest.fixture(scope="module")
def run(request):
    """run(version, script, families): what the script says, run once for all tests."""
    made = {}

    def once(version, script, families):
        key = version, script
        if key not in made:
            given = f"FAMILIES = {families!r}\n"
            made[key] = request.getfixturevalue(version)(MODELS + given + script)
        return made[key]

    return once


def cases(new=NEW, old=OLD, gpu=()):
    """(version, families of that version, family)."""
    versions = (("run_in_comfy", new), ("run_in_old_comfy", old), ("run_in_comfy_on_gpu", gpu))
    return [pytest.param(v, f, one, marks=pytest.mark.comfy, id=f"{v}-{one}") for v, f in versions for one in f]


@pytest.mark.parametrize(("version", "families", "family"), cases())
def test_sampling_is_comfyui_s_own(run, version, families, family):
    difference, size, moved = run(version, SAMPLING, families)[family]
    assert moved > 0.1
    assert difference < 2e-4 * size


@pytest.mark.comfy
@pytest.mark.parametrize("what", ["sizes", "guidance"])
def test_what_is_told_beside_the_words_arrives(run, what):
    found = run("run_in_comfy", SAMPLING, NEW)[what]
    assert found["same"] == 0
    assert found["apart"] > 1e-4
    assert found["batch"] < 1e-5


@pytest.mark.comfy
def test_what_would_not_be_read_is_refused(run):
    for refusal in run("run_in_comfy", SAMPLING, NEW)["refused"]:
        assert refusal.startswith("RegionStyleError: text.extras")


@pytest.mark.parametrize(("version", "families", "family"), cases(IN_DIFFUSERS, []))
def test_the_same_network_in_diffusers(run, version, families, family):
    eps, denoised, size = run(version, DIFFUSERS, families)[family]
    assert size > 0.1
    assert eps < 2e-3  # at t = 0 ComfyUI's clean latent determines eps to float32's rounding over sigma = 0.03
    assert denoised < 1e-4


@pytest.mark.parametrize(("version", "families", "family"), cases(gpu=NEW))
def test_maps_equal_softmax_of_what_the_attention_got(run, version, families, family):
    found = run(version, TAP, families)[family]
    assert found["size"] > 1e-3
    rounding = GPU_ROUNDING if version.endswith("gpu") else 0
    assert found["differences"] < 1e-5 + 10 * rounding
    assert found["output"] <= rounding
    assert found["batch"] == [4]
    assert found["options"]
    assert found["hooks"] == 0
    joint = {"sd3": 2, "sd35": 2, "flux": 3, "schnell": 3}
    if family in joint:
        assert found["shapes"] == [[2, 5, 7]] * 2 * joint[family]
        assert found["paths"][0] == "transformer_blocks.0.attn"
        assert len(found["paths"]) == joint[family]
    else:
        assert all(path.endswith("attn2") for path in found["paths"])
        assert [2, 5, 7] in found["shapes"]


@pytest.mark.comfy
def test_a_block_without_attention_is_an_error(run):
    assert "transformer_blocks.0.attn made no attention" in run("run_in_comfy", TAP, NEW)["removed"]


@pytest.mark.parametrize(("version", "families", "family"), cases(gpu=NEW))
def test_gradients_in_a_prompt_agree_with_finite_differences(run, version, families, family):
    found = run(version, GRADIENTS, families)[family]
    for gradient, difference in found["slopes"]:
        assert abs(difference) > 1e-3
        assert gradient == pytest.approx(difference, rel=5e-3)
    assert found["restored"]
    assert found["still"] <= (GPU_ROUNDING if version.endswith("gpu") else 0)
    assert not found["flag"]


REAL = """
from regionstyle.nodes.engine.attention.cross import attention_layers
from regionstyle.nodes.engine.attention.tap import AttentionTap
import psutil

SDXL = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10, "context_dim": 2048,
    "use_spatial_transformer": True, "legacy": False, "use_linear_in_transformer": True, "num_classes": "sequential",
    "adm_in_channels": 2816, "num_heads": -1, "num_head_channels": 64, "use_temporal_attention": False,
}

def names_of_real_networks():
    # Without weights: which attentions there are, on both hosts.
    import comfy.ops
    from comfy.ldm.flux.model import Flux
    from comfy.ldm.modules.diffusionmodules.mmdit import MMDiT
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

    flux = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
            "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
            "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True, "txt_ids_dims": []}
    options = {"device": "meta", "operations": comfy.ops.disable_weight_init}
    with torch.device("meta"):
        theirs = [
            UNet2DConditionModel(block_out_channels=(320, 640, 1280), cross_attention_dim=2048,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), use_linear_projection=True,
                addition_embed_type="text_time", addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816),
            FluxTransformer2DModel(guidance_embeds=True),
            SD3Transformer2DModel(num_layers=24, attention_head_dim=64, num_attention_heads=24,
                                  caption_projection_dim=1536),
        ]
    ours = [UNetModel(**SDXL, **options), Flux(**flux, **options),
            MMDiT(input_size=None, in_channels=16, depth=24, num_patches=36864, pos_embed_max_size=192,
                  adm_in_channels=2048, context_embedder_config=None, **options)]
    return [[len(attention_layers(a).paths), sorted(attention_layers(a).paths) == sorted(attention_layers(b).paths)]
            for a, b in zip(ours, theirs)]

def real_sdxl():
    # All 2.6 billion weights, random, in bfloat16, on a small latent.
    import comfy.supported_models
    config = comfy.supported_models.SDXL(dict(SDXL))
    config.unet_config.update(SDXL)
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, "")
    for name, parameter in model.diffusion_model.named_parameters():
        if parameter.ndim > 1:
            parameter.data.uniform_(-1, 1).mul_(0.5 * parameter[0].numel() ** -0.5)
        else:
            parameter.data.fill_(float("norm" in name and name.endswith("weight")))
    model = patcher_of(model.to(torch.bfloat16))
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    cond = [[noise(1, 77, 2048), {"pooled_output": noise(1, 1280)}]]
    text, x = predictor.from_conditioning(cond), noise(1, 4, 16, 16)
    with AttentionTap(predictor, [[1, 2]], quantity="share") as tap:
        found = predictor.predict(x, 0.5, text)
    alpha, sigma = predictor.alpha_sigma(0.5)
    y = model.model.encode_adm(pooled_output=cond[0][1]["pooled_output"], width=128, height=128)
    direct = model.model.apply_model(x / alpha, (sigma / alpha).reshape(1), c_crossattn=cond[0][0], y=y)
    maps = list(tap.maps.values())
    return {"parameters": sum(p.numel() for p in model.model.diffusion_model.parameters()), "maps": len(maps),
            "sizes": sorted({tuple(m.shape[1:]) for m in maps}), "low": float(min(m.min() for m in maps)),
            "high": float(max(m.max() for m in maps)), "direct": far(found.denoised, direct),
            "size": float(direct.abs().max()), "native": predictor.native_size}

with torch.inference_mode():
    out = {"names": names_of_real_networks()}
    out["sdxl"] = real_sdxl() if psutil.virtual_memory().available > 10 * 2**30 else None
print(json.dumps(out))
"""


@pytest.mark.comfy
def test_the_real_networks_have_the_same_names_on_both_hosts(run):
    assert run("run_in_comfy", REAL, NEW)["names"] == [[70, True], [57, True], [24, True]]


@pytest.mark.comfy
def test_the_real_sdxl_with_random_weights(run):
    found = run("run_in_comfy", REAL, NEW)["sdxl"]
    if found is None:
        pytest.skip("needs 10 GB of free memory")
    assert 2.5e9 < found["parameters"] < 2.6e9
    assert found["maps"] == 70
    assert found["sizes"] == [[1, 4, 4], [1, 8, 8]]
    assert 0 < found["low"] < found["high"] < 1
    assert found["direct"] <= 1e-5 * found["size"]
    assert found["native"] == 1024
