"""Tiny random networks of the families that diffusers has. Also the beginning of scripts run inside ComfyUI."""

import torch

SDXL_POOLED, FLUX_POOLED, WIDTH = 64, 48, 64
# Text length, text width and pooled width, by family; latents have 4 or 16 channels.
SHAPES = {
    "sd": (77, WIDTH, 64, 4),
    "sdxl": (77, WIDTH, SDXL_POOLED, 4),
    "sd3": (24, 4096, 2048, 16),
    "sd35": (24, 4096, 2048, 16),
    "flux": (20, WIDTH, FLUX_POOLED, 16),
    "schnell": (20, WIDTH, FLUX_POOLED, 16),
}


def fill(module, seed=0):
    """Every parameter random and none zero, so that nothing is left out of a comparison."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        norm = parameter.ndim == 1 and "norm" in name
        scale = 0.05 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        values = torch.randn(parameter.shape, generator=generator) * scale + float(norm and name.endswith("weight"))
        parameter.data.copy_(values)
    return module.eval().requires_grad_(False)


def diffusers_network(family):
    """The network of a family in SHAPES, its parameters random."""
    return fill({"sd": unet, "sdxl": unet, "sd3": sd3, "sd35": sd3, "flux": flux, "schnell": flux}[family](family))


def unet(family):
    from diffusers import UNet2DConditionModel

    xl = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": SDXL_POOLED + 6 * 256,
    }
    one = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=WIDTH,
        attention_head_dim=4, norm_num_groups=32, **(xl if family == "sdxl" else one),
    )  # fmt: skip


def sd3(family):
    from diffusers import SD3Transformer2DModel

    newer = {"qk_norm": "rms_norm", "dual_attention_layers": (0,)} if family == "sd35" else {}
    return SD3Transformer2DModel(
        sample_size=16, num_layers=2, attention_head_dim=64, num_attention_heads=2, caption_projection_dim=128,
        joint_attention_dim=4096, pooled_projection_dim=2048, pos_embed_max_size=12, **newer,
    )  # fmt: skip


def flux(family):
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=WIDTH, pooled_projection_dim=FLUX_POOLED, axes_dims_rope=(4, 6, 6),
        guidance_embeds=family == "flux",
    )  # fmt: skip


def diffusers_scheduler(family):
    from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

    if family not in ("sd", "sdxl"):
        return FlowMatchEulerDiscreteScheduler()
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def family_noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def family_inputs(family, batch=2, size=(10, 14)):
    """A latent, text states and pooled text."""
    length, width, pooled, channels = SHAPES[family]
    return (
        family_noise(batch, channels, *size),
        family_noise(batch, length, width, seed=1) * 2,
        family_noise(batch, pooled, seed=2),
    )
