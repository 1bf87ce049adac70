"""ControlNets in a CONDITIONING, and ComfyUI's predictor where memory is short, in ComfyUI's interpreter."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.controlnet, comfy.model_management as management, comfy.ops, comfy.sample
from comfy.cldm.cldm import ControlNet
from nodes import ControlNetApply, ControlNetApplyAdvanced
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy, attached_experts, attached_gates
from regionstyle.nodes.engine.attention.tap import AttentionTap
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate

OTHERS = ("out_channels", "transformer_depth_output", "use_temporal_attention")
SHAPE = {k: v for k, v in UNET.items() if k not in OTHERS}

def control_net():
    with torch.inference_mode():
        network = ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init, dtype=torch.float32,
                             num_heads=4, **SHAPE)
        fill(network, seed=8)
        return comfy.controlnet.ControlNet(network, load_device=management.get_torch_device())

def far_relative(a, b):
    return far(a, b) / float(b.abs().max())

def controls():
    model, net = sd_model(), control_net()
    hint = torch.rand(1, 96, 80, 3, generator=torch.Generator().manual_seed(1))
    positive, negative = conditioning(), conditioning(seed=1)
    advanced = ControlNetApplyAdvanced().apply_controlnet(positive, negative, net, hint, 0.9, 0.0, 0.6)
    shared = ControlNetApply().apply_controlnet(positive, net, hint, 0.9)[0]
    predictor = ComfyPredictor(model, None, None, ComfyHost())
    x, out = noise(2, 4, 12, 10), {}
    # What ComfyUI's own sampler asks of the network in its first step of one, as the clean latent.
    def sampled(positive, negative):
        seen = {}
        def post(arguments):
            seen.update(arguments)
            return arguments["denoised"]
        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(post, disable_cfg1_optimization=True)
        sigmas = torch.tensor([float(sigma_over_alpha), 0.0])
        latent = torch.zeros(2, 4, 12, 10)
        comfy.sample.sample_custom(patched, x / sigma, 4.0, comfy.samplers.sampler_object("euler"), sigmas,
                                   positive, negative, latent, noise_mask=None, disable_pbar=True, seed=0)
        return seen["cond_denoised"], seen["uncond_denoised"], seen["input"]
    for name, t, pair in (("advanced", 0.7, advanced), ("shared", 0.4, (shared, negative)), ("late", 0.2, advanced)):
        alpha, sigma = (float(v) for v in predictor.alpha_sigma(t))
        sigma_over_alpha = sigma / alpha
        texts = [predictor.from_conditioning(c) for c in pair]
        plain = [predictor.from_conditioning(c) for c in (positive, negative)]
        first = predictor.predict_pair(x, t, *texts)
        again = predictor.predict_pair(x, t, *texts)
        base = predictor.predict_pair(x, t, *plain)
        theirs = sampled(*pair)
        latent = theirs[2] * alpha  # what their step looked at
        same = predictor.predict_pair(latent, t, *texts)
        out[name] = dict(again=max(far(a.eps, b.eps) for a, b in zip(first, again)),
                         change=[far_relative(a.eps, b.eps) for a, b in zip(first, base)],
                         theirs=[far_relative(a.denoised, b) for a, b in zip(same, theirs)])
    net_of = lambda c: c[0][1]["control"]
    with predictor.loaded():
        predictor.predict(x, 0.4, predictor.from_conditioning(shared))
        loaded = [m.model.model for m in management.current_loaded_models]
        out["loaded"] = any(m is net.control_model for m in loaded)
        out["inside"] = [net_of(shared).cond_hint is not None, net_of(shared).model_sampling_current is not None]
    out["after"] = [net_of(shared).cond_hint is None, net_of(shared).model_sampling_current is None,
                    net_of(shared).timestep_range is None]
    def broken(*a, **k):
        raise RuntimeError("in the middle")
    handle = model.model.diffusion_model.out.register_forward_hook(broken)
    out["error"] = message(predictor.predict, x, 0.4, predictor.from_conditioning(shared))
    handle.remove()
    out["after error"] = [net_of(shared).cond_hint is None, predictor._additional.models == []]
    out["alone"] = far(predictor.predict(x, 0.4, predictor.from_conditioning(positive)).eps,
                       ComfyPredictor(sd_model(), None, None, ComfyHost()).predict(
                           x, 0.4, predictor.from_conditioning(positive)).eps)
    with predictor.gradients():
        latent = x.clone().requires_grad_()
        out["gradients"] = message(predictor.predict, latent, 0.4, predictor.from_conditioning(shared))
    net_of(shared).extra_hooks = type("Hooks", (), {"hooks": [1]})()
    out["hooks"] = message(predictor.predict, x, 0.4, predictor.from_conditioning(shared))
    return out

def parts():
    # A device with room for so many images: the network raises what torch raises.
    model = sd_model()
    network = model.model.diffusion_model
    generator = torch.Generator().manual_seed(3)
    random = lambda *shape: torch.randn(*shape, generator=generator) * 0.3
    layers = {"down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": LoraLayer(random(2, 64), random(32, 2)),
              "mid_block.attentions.0.transformer_blocks.0.attn1.to_q": LoraLayer(random(2, 64), random(64, 2))}
    masks = torch.rand(4, 12, 10, generator=generator)
    routed = attach_to_comfy(model, [Expert("oil", layers)], Gates({"oil": masks}))
    predictor = ComfyPredictor(routed, None, None, ComfyHost())
    space = {"room": None, "ran": []}
    def check(module, args, kwargs):
        count = len(args[0] if args else kwargs["x"])
        if space["room"] is not None and count > space["room"]:
            raise getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)("CUDA out of memory")
        space["ran"].append(count)
    network.register_forward_pre_hook(check, with_kwargs=True)
    x, t = noise(4, 4, 12, 10), torch.tensor([0.2, 0.4, 0.6, 0.8])
    one, other = predictor.from_conditioning(conditioning()), predictor.from_conditioning(conditioning(seed=1))
    each = one + other + one + other
    override = Gates({"oil": RegionGate(masks.flip(0), 1.5)})
    def run(room):
        space["room"], space["ran"] = room, []
        pair = predictor.predict_pair(x, t, one, other)
        ran = list(space["ran"])
        with AttentionTap(predictor, [[1, 2], [7]]) as tap:
            single = predictor.predict(x, t, each)
        gated = predictor.predict(x, t, one, override)
        return ran, [pair[0].eps, pair[1].eps, single.eps, gated.denoised, *tap.maps.values()]
    whole = run(None)[1]
    found = {}
    for room in (7, 4, 2, 1):
        ran, values = run(room)
        found[room] = [ran, max(far_relative(a, b) for a, b in zip(values, whole)), len(values)]
    gates = predictor.predict(x, t, one, Gates()).eps
    base = far_relative(whole[3], gates)
    controlled = ControlNetApply().apply_controlnet(conditioning(), control_net(), torch.rand(4, 96, 80, 3), 1.0)[0]
    space["room"] = 2
    never = message(predictor.predict, x, t, predictor.from_conditioning(controlled))
    space["room"] = 0
    return dict(rooms=found, change=base, never=never, none=message(predictor.predict, x, t, one))

def kept_options():
    # Options of earlier gates stay when experts are added.
    model = sd_model()
    layer = lambda: {"time_embedding.linear_2": LoraLayer(noise(2, 128, seed=4), noise(128, 2, seed=5))}
    half, steep = torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), 0.25)
    first = attach_to_comfy(model, [Expert("oil", layer())], Gates({"oil": half}, pooled="off", shared_text="off"))
    second = attach_to_comfy(first, [Expert("ink", layer())], Gates({"ink": RegionGate(steep)}))
    third = attach_to_comfy(second, [], Gates({"ink": RegionGate(steep, 0.7)}, shared_text="off"))
    values = lambda m: {n: [g.pooled, g.shared_text] for n, g in attached_gates(m).values.items()}
    ask = lambda m: ComfyPredictor(m, None, None, ComfyHost())
    text = ask(model).from_conditioning(conditioning())
    run = lambda m: ask(m).predict(noise(1, 4, 8, 8), 0.5, text).eps
    only = attach_to_comfy(model, [Expert("ink", layer())], Gates({"ink": RegionGate(steep)}))
    return dict(first=values(first), second=values(second), third=values(third), off=far(run(first), run(model)),
                ink=far(run(second), run(only)), change=far(run(only), run(model)))

with torch.inference_mode():
    print(json.dumps({test.__name__: test() for test in (controls, parts, kept_options)}))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def found(request):
    return request.getfixturevalue(request.param)(MODELS + SCRIPT)


@pytest.mark.parametrize("case", ["advanced", "shared", "late"])
def test_control_nets_act_as_in_comfyuis_sampler(found, case):
    """Also "shared": the older node's ControlNet acts on the negative prompt; "late": past its end it does not act."""
    found = found["controls"][case]
    assert found["again"] == 0
    assert max(found["theirs"]) < 1e-4
    assert all(change == 0 if case == "late" else change > 1e-2 for change in found["change"])


def test_control_nets_are_loaded_with_the_model_and_cleaned_up(found):
    found = found["controls"]
    assert found["loaded"]
    assert all(found["inside"])
    assert all(found["after"])
    assert "in the middle" in found["error"]
    assert all(found["after error"])
    assert found["alone"] == 0


def test_what_is_not_supported_with_control_nets_says_so(found):
    found = found["controls"]
    assert "ControlNet" in found["gradients"]
    assert found["gradients"].startswith("RegionStyleError")
    assert "hooks" in found["hooks"]


def test_where_memory_is_short_the_batch_is_halved(found):
    found = found["parts"]
    assert found["change"] > 1e-2
    for room, ran in (("7", [4, 4]), ("4", [4, 4]), ("2", [2] * 4), ("1", [1] * 8)):
        assert found["rooms"][room][0] == ran
        assert found["rooms"][room][1] < 1e-4
        assert found["rooms"][room][2] == 4 + 7
    assert found["none"].startswith("OutOfMemory: latents: got no memory even for a size of 1")


def test_a_batch_with_a_control_net_is_not_parted(found):
    """Its pictures belong to single images."""
    assert found["parts"]["never"].startswith("OutOfMemory: prompts: got no memory")


def test_options_of_earlier_gates_stay_when_experts_are_added(found):
    found = found["kept_options"]
    assert found["first"] == {"oil": ["off", "off"]}
    assert found["second"] == {"oil": ["off", "off"], "ink": ["mean", "share"]}
    assert found["third"] == {"oil": ["off", "off"], "ink": ["mean", "off"]}
    assert found["off"] == 0
    assert found["ink"] < 1e-6 < 1e-3 < found["change"]
