"""A small SD-class U-Net with a style expert and a fresh fake expert, on the tiny world's autoencoder and words."""

import torch

from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.predictor.diffusers import DiffusersPredictor
from regionstyle.nodes.sms.fake import init_fake
from regionstyle.nodes.tinyworld.bundled import load_text_tower, load_vae
from regionstyle.nodes.tinyworld.networks import scheduler


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    made = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2, layers_per_block=1, cross_attention_dim=128,
        attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip
    return made.double().eval().requires_grad_(False)


def autoencoder_kl():
    """A small autoencoder with a distribution to draw from, random weights."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1, latent_channels=4, norm_num_groups=2,
    ).double().eval().requires_grad_(False)  # fmt: skip


def style_expert(network):
    layers = {}
    for number, (path, module) in enumerate(network.named_modules()):
        if path.endswith((".to_q", ".to_v", ".to_out.0")):
            down, up = random(2, module.in_features, seed=number), random(module.out_features, 2, seed=number + 1)
            layers[path] = LoraLayer(down / 4, up / 4)
    return Expert("style", layers)


def sms_predictor(dtype=torch.float64, host=None):
    """A predictor with the experts "style" and the fake one attached; native size 64 px."""
    network = unet()
    text, tokenizer = load_text_tower()
    made = DiffusersPredictor(network, load_vae(), text, tokenizer, scheduler(), host or LocalHost("cpu"), None)
    made.experts = ExpertStack(network, [style_expert(network), init_fake(network, 3)])
    network.to(dtype)
    made.experts.weights.to(dtype)
    made.experts.attach()
    return made
