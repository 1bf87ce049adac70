"""The real networks in ComfyUI: names on both hosts, and SDXL in full size with random weights."""

import pytest
from family_scripts import NEW, each_family_once

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(request):
    """run(version, script, families): what the script says, run once for all tests."""
    return each_family_once(request)


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
            "sizes": sorted({tuple(m.shape[1:]) for m in maps}),
            "share": float(torch.cat([m.flatten() for m in maps]).mean()), "direct": far(found.denoised, direct),
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
    assert found["share"] == pytest.approx(2 / 77, rel=0.5), "random words get about the same, and two of 77 are asked"
    assert found["direct"] <= 1e-5 * found["size"]
    assert found["native"] == 1024
