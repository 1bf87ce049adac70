"""The tiny world's networks: SD1.5's parts and classes at a size that trains on a CPU and ships inside the pack.

Autoencoder (`AutoencoderTiny`, factor 8, 4 channels), CLIP (`CLIPTextModel` text tower and a convolutional image tower,
trained together) and denoiser (`UNet2DConditionModel`, noise prediction, cross-attention, 16 x 16 latents).
The configurations here are the single source: diffusers builds from them directly and ComfyUI's twins are
derived from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModelWithProjection

LATENT_CHANNELS = 4
LATENT_SIZE = 16
TEXT_WIDTH = 128
TEXT_LENGTH = 77

# TAESD's layout: no normalisation, so a colour survives at any width; factor 8, latents of unit variance.
VAE_CONFIG: dict[str, Any] = {"latent_channels": LATENT_CHANNELS, "scaling_factor": 1.0}
UNET_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2,
    "layers_per_block": 1,
    "cross_attention_dim": TEXT_WIDTH,
    "attention_head_dim": 4,  # diffusers reads this as the number of heads for SD1.x networks
    "norm_num_groups": 32,
}
TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": TEXT_LENGTH,
    "projection_dim": TEXT_WIDTH,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
# SD1.5's schedule; ComfyUI's ModelSamplingDiscrete uses the same numbers.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def new_vae() -> AutoencoderTiny:
    """A randomly initialised autoencoder; images `[B,3,H,W]` in -1..1, latents `[B,4,H/8,W/8]`."""
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(**VAE_CONFIG)


def new_unet() -> UNet2DConditionModel:
    """A randomly initialised denoiser; latents `[B,4,16,16]`, text `[B,77,128]` -> noise `[B,4,16,16]`."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET_CONFIG)


def new_text_tower(vocabulary: int, start: int, end: int) -> CLIPTextModelWithProjection:
    """A randomly initialised text tower; token ids `[B,77]` -> states `[B,77,128]` and one embedding `[B,128]`."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        **TEXT_CONFIG, vocab_size=vocabulary, bos_token_id=start, eos_token_id=end, pad_token_id=end
    )
    return CLIPTextModelWithProjection(config)


def new_image_tower() -> torch.nn.Module:
    """A randomly initialised image tower; images `[B,3,128,128]` in 0..1 -> embeddings `[B,128]`."""
    from .image_tower import ImageTower

    return ImageTower(TEXT_WIDTH)


def scheduler() -> DDIMScheduler:
    """The noise schedule both hosts sample with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE)
