"""Not a test: the text of this file starts every script that the tests run inside ComfyUI's interpreter.

Tiny random models of ComfyUI's own classes, made in inference mode as ComfyUI's loaders make them.
"""

import torch

from regionstyle.nodes.engine.host.comfy import ComfyHost  # noqa: F401 (the scripts use it)
from regionstyle.nodes.engine.predictor.comfy import ComfyPredictor  # noqa: F401

UNET = {
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 64, "use_spatial_transformer": True, "legacy": False,
    "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
}  # fmt: skip
CLIP = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407, "projection_dim": 64, "num_positions": 77,
}  # fmt: skip
VAE = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32,
    "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
}  # fmt: skip


def fill(module, seed=0):
    """Every parameter random: ComfyUI leaves them uninitialised."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        norm = parameter.ndim == 1 and "norm" in name
        scale = 0.05 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        values = torch.randn(parameter.shape, generator=generator) * scale + float(norm and name.endswith("weight"))
        parameter.data.copy_(values)
    return module.eval()


def patcher_of(model):
    import comfy.model_management as management
    import comfy.model_patcher

    kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    return kind(model, management.get_torch_device(), management.unet_offload_device())


def sd_model(v=False, **changes):
    """A MODEL of the SD1.5 class; with `v` it is sampled as a velocity network."""
    import comfy.model_base
    import comfy.supported_models

    class Tiny(comfy.supported_models.SD15):
        unet_extra_config = {"num_heads": 4, "num_head_channels": -1}

        def model_type(self, state_dict, prefix=""):
            return comfy.model_base.ModelType.V_PREDICTION if v else comfy.model_base.ModelType.EPS

    with torch.inference_mode():
        config = Tiny({**UNET, **changes})
        config.unet_config.update({**Tiny.unet_extra_config, **UNET, **changes})
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        fill(model.diffusion_model)
        return patcher_of(model)


def sd3_model(v35=False):
    """A MODEL of the SD3 class (rectified flow), depth 2; v35: with SD3.5's normed queries and image attention."""
    import comfy.supported_models

    newer = {"qk_norm": "rms", "x_block_self_attn_layers": [0]} if v35 else {}
    with torch.inference_mode():
        config = comfy.supported_models.SD3({
            "in_channels": 16, "patch_size": 2, "depth": 2, "input_size": None, "adm_in_channels": 2048,
            "context_embedder_config": {"target": "torch.nn.Linear",
                                        "params": {"in_features": 4096, "out_features": 128}},
            "num_patches": 144, "pos_embed_max_size": 12, "pos_embed_scaling_factor": None, **newer,
        })  # fmt: skip
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        fill(model.diffusion_model)
        # A buffer that comes with the weights.
        model.diffusion_model.pos_embed.copy_(noise(*model.diffusion_model.pos_embed.shape))
        return patcher_of(model)


def sdxl_model():
    """A MODEL of the SDXL class: pooled text of 64 numbers and six sizes beside the words."""
    import comfy.supported_models

    shape = {
        **UNET, "transformer_depth": [0, 2], "transformer_depth_output": [0, 0, 2, 2], "transformer_depth_middle": 2,
        "use_linear_in_transformer": True, "num_classes": "sequential", "adm_in_channels": 64 + 6 * 256,
        "num_heads": 4, "num_head_channels": -1,
    }  # fmt: skip
    with torch.inference_mode():
        config = comfy.supported_models.SDXL(dict(shape))
        config.unet_config.update(shape)
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        fill(model.diffusion_model)
        return patcher_of(model)


def flux_model(guidance=True, **changes):
    """A MODEL of the FLUX class, one double and two single blocks; guidance: dev, otherwise schnell."""
    import dataclasses

    import comfy.ldm.flux.model
    import comfy.supported_models

    shape = {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 48, "context_in_dim": 64,
        "hidden_size": 64, "mlp_ratio": 4.0, "num_heads": 4, "depth": 1, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": guidance,
        **changes,
    }  # fmt: skip
    if "txt_ids_dims" in {field.name for field in dataclasses.fields(comfy.ldm.flux.model.FluxParams)}:
        shape["txt_ids_dims"] = []
    kind = comfy.supported_models.Flux if guidance else comfy.supported_models.FluxSchnell
    with torch.inference_mode():
        config = kind(dict(shape))
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        fill(model.diffusion_model)
        return patcher_of(model)


# Text length, text width and pooled width of each family's conditioning; latents have 4 or 16 channels.
COMFY_SHAPES = {
    "sd": (77, 64, 64, 4), "v": (77, 64, 64, 4), "sdxl": (77, 64, 64, 4), "sd3": (24, 4096, 2048, 16),
    "sd35": (24, 4096, 2048, 16), "flux": (20, 64, 48, 16), "schnell": (20, 64, 48, 16),
}  # fmt: skip


def comfy_model(family):
    return {
        "sd": sd_model, "v": lambda: sd_model(v=True), "sdxl": sdxl_model, "sd3": sd3_model,
        "sd35": lambda: sd3_model(v35=True), "flux": flux_model, "schnell": lambda: flux_model(guidance=False),
    }[family]()  # fmt: skip


def family_conditioning(family, seed=0):
    length, width, pooled, _ = COMFY_SHAPES[family]
    return conditioning(seed, width, pooled, length)


def sd_clip():
    import comfy.sd
    import comfy.supported_models_base
    from comfy import sd1_clip

    class Words(sd1_clip.SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None, **_):
            super().__init__(device=device, dtype=dtype, textmodel_json_config=CLIP, model_options={})

    class Model(sd1_clip.SD1ClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(device=device, dtype=dtype, model_options={}, clip_name="l", clip_model=Words)

    with torch.inference_mode():
        target = comfy.supported_models_base.ClipTarget(sd1_clip.SD1Tokenizer, Model)
        target.params = {}
        clip = comfy.sd.CLIP(target, embedding_directory=None)
        fill(clip.cond_stage_model)
        return clip


def sd_vae():
    import comfy.sd
    from comfy.ldm.models.autoencoder import AutoencoderKL

    with torch.inference_mode():
        state = fill(AutoencoderKL(ddconfig=VAE, embed_dim=4)).state_dict()
        return comfy.sd.VAE(sd=state, config={"params": {"ddconfig": VAE, "embed_dim": 4}}, dtype=torch.float32)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditioning(seed=0, width=64, pooled=64, length=77):
    """What a CLIP Text Encode node gives."""
    return [[noise(1, length, width, seed=seed), {"pooled_output": noise(1, pooled, seed=seed)}]]


def far(a, b):
    """The largest difference."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return float((a - b).abs().max())


def message(call, *arguments):
    """The text of the error that a call ends in. ComfyUI's interrupt is a BaseException in newer versions."""
    try:
        call(*arguments)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
