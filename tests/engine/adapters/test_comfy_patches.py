"""Regional experts on an SD-class model beside the patches of ComfyUI's own nodes, as other packs use them too.

The oracle is the LoRA merged by ComfyUI under the same patch. A patch that changes which tokens a layer sees cannot be
combined with masks: that must be an error, never a mask in the wrong place.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SCRIPT = """
import comfy.cldm.cldm, comfy.controlnet, comfy.model_management as management, comfy.ops, comfy.sample, comfy.sd
from comfy_extras import nodes_freelunch, nodes_hypertile, nodes_model_downscale, nodes_pag, nodes_sag, nodes_tomesd
from nodes import ControlNetApplyAdvanced
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.adapters.comfy import attach_to_comfy
from regionstyle.nodes.engine.adapters.gates import Gates

SIZE = (16, 16)

def lora(model, seed=1):
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, module in model.model.diffusion_model.named_modules():
        if "transformer_blocks" in name and isinstance(module, torch.nn.Linear):
            key = "lora_unet_" + name.replace(".", "_")
            found[key + ".lora_down.weight"] = torch.randn(2, module.in_features, generator=generator) * 0.1
            found[key + ".lora_up.weight"] = torch.randn(module.out_features, 2, generator=generator) * 0.1
    return found

def routed(model, gate, seed=1, name="one"):
    expert = load_expert(lora(model, seed), name=name, network=model.model.diffusion_model)
    return attach_to_comfy(model, [expert], Gates({name: gate}))

def merged(model, seed=1):
    return comfy.sd.load_lora_for_models(model, None, lora(model, seed), 1.0, 0)[0]

def sample(model, positive=None):
    torch.manual_seed(0)  # some patches draw
    return comfy.sample.sample(model, noise(1, 4, *SIZE), 2, 3.0, "euler", "normal", positive or conditioning(),
                               conditioning(seed=1), torch.zeros(1, 4, *SIZE), disable_pbar=True, seed=0)

def relative(a, b):
    return float((a - b).norm() / b.norm())

def first(output):
    '''The MODEL among a node's outputs.'''
    return output[0] if isinstance(output, tuple) else output.result[0]

def attention_patch(model):
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, options: (q * 1.1, k, v * 0.9))
    patched.set_model_attn2_patch(lambda q, k, v, options: (q, k * 0.9, v * 1.1))
    patched.set_model_attn1_output_patch(lambda out, options: out * 1.05)
    patched.set_model_attn2_output_patch(lambda out, options: out * 0.95)
    return patched

def replaced(which):
    def patch(model):
        patched = model.clone()
        def attention(q, k, v, options):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v) * 0.9
        for block in ("input", "middle", "output"):
            for number in range(12):
                patched.set_model_patch_replace(attention, which, block, number)
        return patched
    return patch

PATCHES = {
    "FreeU": lambda m: first(nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.9, 0.2)),
    "PAG": lambda m: first(nodes_pag.PerturbedAttentionGuidance.execute(m, 3.0)),
    "SAG": lambda m: first(nodes_sag.SelfAttentionGuidance.execute(m, 0.5, 2.0)),
    "attention patches": attention_patch,
    "attn1 replaced": replaced("attn1"),
    "attn2 replaced": replaced("attn2"),
    "HyperTile": lambda m: first(nodes_hypertile.HyperTile.execute(m, 64, 1, 1, False)),
    "ToMe": lambda m: first(nodes_tomesd.TomePatchModel.execute(m, 0.75)),
    "ToMe half": lambda m: first(nodes_tomesd.TomePatchModel.execute(m, 0.5)),
    "downscale": lambda m: first(nodes_model_downscale.PatchModelAddDownscale.execute(
        m, 1, 2.0, 0.0, 1.0, True, "bicubic", "bicubic")),
}

def control():
    SHAPE = {k: v for k, v in UNET.items()
             if k not in ("out_channels", "transformer_depth_output", "use_temporal_attention")}
    network = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.disable_weight_init,
                                         dtype=torch.float32, num_heads=4, **SHAPE)
    fill(network, seed=8)
    net = comfy.controlnet.ControlNet(network, load_device=management.get_torch_device())
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    cond = conditioning()
    return ControlNetApplyAdvanced().apply_controlnet(cond, cond, net, hint, 0.9, 0.0, 1.0)[0]

out = {}
with torch.inference_mode():
    model = sd_model()
    whole, half = torch.ones(1, 8, 8), torch.ones(1, 8, 8)
    half[..., 4:] = 0
    plain = sample(model)
    for name, patch in PATCHES.items():
        wanted, bare = sample(patch(merged(model))), sample(patch(model))
        found = dict(change=relative(wanted, bare), acts=relative(bare, plain))
        for order, make in (("after", lambda gate: patch(routed(model, gate))),
                            ("before", lambda gate: routed(patch(model), gate))):
            found[order] = relative(sample(make(1.0)), wanted)
            said = message(lambda: found.update({order + " mask": relative(sample(make(whole)), wanted)}))
            found[order + " said"] = said
        found["half"] = message(lambda: sample(patch(routed(model, half))))
        found["base"] = torch.equal(sample(model), plain)
        out[name] = found
    cond = control()
    wanted = sample(merged(merged(model), 5), cond)
    out["ControlNet and LoRA"] = dict(
        error=[relative(sample(m, cond), wanted)
               for m in (merged(routed(model, whole), 5), routed(merged(model, 5), whole))],
        change=[relative(sample(m, cond), wanted) for m in (model, merged(model), merged(model, 5))],
        acts=relative(wanted, sample(merged(merged(model), 5))))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def everything(run_in_comfy):
    return run_in_comfy(MODELS + SCRIPT)


KEEPING = ["FreeU", "PAG", "SAG", "attention patches", "attn1 replaced", "downscale"]
CHANGING = ["attn2 replaced", "HyperTile", "ToMe", "ToMe half"]


@pytest.mark.parametrize("name", KEEPING + CHANGING)
def test_experts_everywhere_act_as_a_merged_lora_beside_any_patch(everything, name):
    found = everything[name]
    assert found["acts"] > 1e-3
    assert found["change"] > 1e-3
    assert max(found["after"], found["before"]) < 1e-5
    assert found["base"], "the model that was given has changed"


@pytest.mark.parametrize("name", KEEPING)
def test_masks_work_beside_patches_that_keep_the_tokens(everything, name):
    found = everything[name]
    assert max(found["after mask"], found["before mask"]) < 1e-5
    assert found["half"] == "no error"


@pytest.mark.parametrize("name", CHANGING)
def test_masks_beside_patches_that_change_the_tokens_are_one_clear_error(everything, name):
    """Also where the number of tokens is that of another resolution: tiles of half a side, a quarter of all tokens."""
    for said in (everything[name][key] for key in ("after said", "before said", "half")):
        assert said.startswith("RegionStyleError"), said
        assert "replaced the cross-attention" in said if name == "attn2 replaced" else "HyperTile, ToMe" in said


def test_masks_work_beside_a_control_net_and_an_ordinary_lora(everything):
    found = everything["ControlNet and LoRA"]
    assert max(found["error"]) < 1e-5
    assert min(found["change"]) > 1e-3
    assert found["acts"] > 1e-3
