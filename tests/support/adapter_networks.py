"""A small U-Net of diffusers, experts for all its layers, and the oracle that merges them into its weights."""

import copy

import torch

from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer

SIZE = (12, 10)  # odd grids on the way down: 12x10, 6x5
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def new_unet(seed=0):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=24, attention_head_dim=4, norm_num_groups=32,
    ).eval().requires_grad_(False)  # fmt: skip


def new_expert(unet, name="sketch", keep=lambda path: True, rank=3, seed=1, scale=0.5):
    """An update of every Linear and Conv2d that `keep` lets through."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3 / shape[1] ** 0.5

    layers = {}
    for path, module in unet.named_modules():
        if not keep(path) or not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            continue
        weight = module.weight
        up = (weight.shape[0], rank, *[1] * (weight.ndim - 2))
        layers[path] = LoraLayer(random(rank, *weight.shape[1:]), random(*up), scale)
    return Expert(name, layers)


def merged(unet, *experts, strengths=None):
    """A copy with weight + strength * scale * up @ down in every layer."""
    unet = copy.deepcopy(unet)
    for expert, strength in zip(experts, strengths or [1.0] * len(experts), strict=True):
        for path, layer in expert.layers.items():
            weight = unet.get_submodule(path).weight
            update = (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(weight.shape)
            weight.data += strength * layer.scale * update
    return unet


def kinds_of_layer(path):
    """One of each kind: time embedding, stem, resnet, shortcut, both attentions, feed-forward, resampling."""
    return path.startswith(("time_embedding", "conv_in", "conv_out", "down_blocks.0", "up_blocks.0"))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def forwards(unet):
    return {name: module.__dict__.get("forward") for name, module in unet.named_modules()}


def mask_of(*shape, seed=3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def at_layer(unet, path, run, stack=None, gates=None):
    """Input and output of one layer in a run, with a stack attached or not."""
    seen = {}
    handle = unet.get_submodule(path).register_forward_hook(
        lambda module, args, kwargs, out: seen.update(args=args, kwargs=kwargs, out=out), with_kwargs=True
    )
    try:
        if stack is None:
            run()
        else:
            with stack, stack.using(gates):
                run()
    finally:
        handle.remove()
    return seen
