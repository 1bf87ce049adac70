"""Experts on networks of the published sizes: the names of all layers, without memory (meta tensors).

The oracles are ComfyUI's own table of LoRA names, and the module names of the same network in diffusers.
"""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
MODELS = (Path(__file__).parents[2] / "support" / "comfy_models.py").read_text()

SIZES = """
import comfy.supported_models
from regionstyle.nodes.engine.families.layers import is_linear
from regionstyle.nodes.engine.families.registry import families, family_of

SDXL = {**UNET, "model_channels": 320, "channel_mult": [1, 2, 4], "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10, "context_dim": 2048, "use_linear_in_transformer": True,
        "adm_in_channels": 2816, "num_classes": "sequential"}
SD3 = {"in_channels": 16, "patch_size": 2, "depth": 24, "input_size": None, "adm_in_channels": 2048,
       "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
       "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None, "qk_norm": "rms",
       "x_block_self_attn_layers": list(range(13))}
FLUX = {"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
        "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38,
        "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True}

def comfy_model(kind, config, dtype, device, **extra):
    from comfy.ldm.flux.model import FluxParams
    if kind == "Flux" and "txt_ids_dims" in FluxParams.__dataclass_fields__:
        extra["txt_ids_dims"] = []
    made = getattr(comfy.supported_models, kind)({**config, **extra})
    made.unet_config.update({**config, **extra})
    made.set_inference_dtype(dtype, None)
    return made.get_model({}, "", device=torch.device(device))
"""

NAMES = """
import comfy.lora
import diffusers

def diffusers_network(kind):
    with torch.device("meta"):
        if kind == "Flux":
            return diffusers.FluxTransformer2DModel(guidance_embeds=True)
        if kind == "SD3":
            return diffusers.SD3Transformer2DModel(
                num_layers=24, num_attention_heads=24, caption_projection_dim=1536, joint_attention_dim=4096,
                pooled_projection_dim=2048, pos_embed_max_size=192, dual_attention_layers=tuple(range(13)),
                qk_norm="rms_norm")
        return diffusers.UNet2DConditionModel(
            block_out_channels=(320, 640, 1280), down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            up_block_types=(*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20), cross_attention_dim=2048, use_linear_projection=True,
            addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)

def entry(value):
    '''Key, first row and number of rows, exchanged halves.'''
    key, rows, swap = (value, None, None) if isinstance(value, str) else (*value, None)[:3]
    return key.removeprefix("diffusion_model.").removesuffix(".weight"), rows and list(rows[1:]), swap is not None

def compared(kind, config, **extra):
    model = comfy_model(kind, config, torch.float32, "meta", **extra)
    network = model.diffusion_model
    places = family_of(network).layer_slices(network)
    table = comfy.lora.model_lora_keys_unet(model, {})
    layers = {n: m for n, m in network.named_modules() if is_linear(m) or isinstance(m, torch.nn.Conv2d)}
    ours = {path: place for path, place in places.items() if place.module in layers}
    other = diffusers_network(kind)
    theirs = {n for n, m in other.named_modules() if is_linear(m) or isinstance(m, torch.nn.Conv2d)}
    wrong = []
    for path, place in ours.items():
        alias = "lora_unet_" + path.replace(".", "_") if kind == "SDXL" else "transformer." + path
        rows = [place.rows.start, place.rows.stop - place.rows.start] if place.rows else None
        if alias not in table or entry(table[alias]) != (place.module, rows, place.swapped):
            wrong.append([path, str(table.get(alias))])
    own = {path for path in family_of(other).layer_slices(other) if path in theirs}
    accepted = [f.name for each in (network, other) for f in families() if f.accepts(each)]
    return dict(layers=len(ours), accepted=accepted, wrong=wrong,
                uncovered=sorted(set(layers) - {p.module for p in ours.values()}),
                only_comfy=sorted(set(ours) - theirs), only_diffusers=sorted(theirs - set(ours)),
                diffusers=sorted(theirs ^ own))

with torch.inference_mode():
    print(json.dumps({"sdxl": compared("SDXL", SDXL, num_heads=-1, num_head_channels=64),
                      "sd3": compared("SD3", SD3), "flux": compared("Flux", FLUX)}))
"""


@pytest.fixture(scope="module", params=["run_in_comfy", "run_in_old_comfy"])
def names(request):
    return request.getfixturevalue(request.param)(MODELS + SIZES + NAMES)


@pytest.mark.parametrize(("network", "family"), [("sdxl", "SDXL"), ("sd3", "SD3"), ("flux", "FLUX")])
def test_one_family_accepts_a_network_of_either_host(names, network, family):
    assert names[network]["accepted"] == [family, family]


@pytest.mark.parametrize(("network", "layers"), [("sdxl", 794), ("sd3", 393), ("flux", 504)])
def test_every_layer_has_the_name_that_comfyui_gives_it(names, network, layers):
    found = names[network]
    assert found["wrong"] == []
    assert found["uncovered"] == []
    assert found["layers"] == layers


@pytest.mark.parametrize("network", ["sdxl", "sd3", "flux"])
def test_every_layer_has_the_name_that_diffusers_gives_it(names, network):
    found = names[network]
    assert found["only_comfy"] == []
    assert found["only_diffusers"] == []
    assert found["diffusers"] == []
