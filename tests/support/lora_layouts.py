"""The same LoRA update as a state dict of every layout."""

import pytest
import torch

# diffusers path, ldm name in SD1.x / SD2.x / SDXL (two residual blocks per resolution), convolution kernel or None
PLACES = [
    ("conv_in", "input_blocks.0.0", 3),
    ("time_embedding.linear_1", "time_embed.0", None),
    ("time_embedding.linear_2", "time_embed.2", None),
    ("down_blocks.0.resnets.0.conv1", "input_blocks.1.0.in_layers.2", 3),
    ("down_blocks.0.attentions.1.proj_in", "input_blocks.2.1.proj_in", 1),
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.3.0.op", 3),
    ("down_blocks.1.resnets.0.conv_shortcut", "input_blocks.4.0.skip_connection", 1),
    (
        "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
        "input_blocks.5.1.transformer_blocks.0.attn2.to_k",
        None,
    ),
    ("down_blocks.2.resnets.1.time_emb_proj", "input_blocks.8.0.emb_layers.1", None),
    ("mid_block.resnets.1.conv2", "middle_block.2.out_layers.3", 3),
    (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
        "middle_block.1.transformer_blocks.0.attn1.to_out.0",
        None,
    ),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.2.1.conv", 3),
    ("up_blocks.1.upsamplers.0.conv", "output_blocks.5.2.conv", 3),
    (
        "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
        "output_blocks.3.1.transformer_blocks.0.ff.net.0.proj",
        None,
    ),
    ("up_blocks.3.resnets.2.conv2", "output_blocks.11.0.out_layers.3", 3),
    ("up_blocks.3.attentions.2.proj_out", "output_blocks.11.1.proj_out", 1),
    ("conv_out", "out.2", 3),
]
ATTENTION = [path for path, _, _ in PLACES if ".attn" in path]


def tensors_of(kernel, seed):
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(3, 6, *[kernel] * 2 if kernel else (), generator=generator)
    return down, torch.randn(8, 3, *[1] * 2 if kernel else (), generator=generator)


UPDATES = {path: tensors_of(kernel, seed) for seed, (path, _, kernel) in enumerate(PLACES)}
LDM = {path: ldm for path, ldm, _ in PLACES}


def written(name, down="lora_down.weight", up="lora_up.weight", alpha=6.0, only=tuple(UPDATES)):
    """State dict with `name(path)` for every layer; alpha 6 at rank 3 is a scale of 2."""
    state = {}
    for path in only:
        state[f"{name(path)}.{down}"], state[f"{name(path)}.{up}"] = UPDATES[path]
        if alpha is not None:
            state[f"{name(path)}.alpha"] = torch.tensor(alpha)
    return state


def processor(path):
    attention, projection = path.removesuffix(".0").rsplit(".", 1)
    return f"unet.{attention}.processor.{projection}_lora"


LAYOUTS = {
    "kohya": written(lambda p: "lora_unet_" + p.replace(".", "_")),
    "kohya_ldm": written(lambda p: "lora_unet_" + LDM[p].replace(".", "_")),
    "comfy": written(lambda p: "diffusion_model." + LDM[p]),
    "comfy_ab": written(lambda p: "diffusion_model." + LDM[p], "lora_A.weight", "lora_B.weight"),
    "diffusers_peft": written(lambda p: "unet." + p, "lora_A.weight", "lora_B.weight"),
    "diffusers": written(lambda p: "unet." + p, "lora.down.weight", "lora.up.weight"),
    "diffusers_linear": written(lambda p: p, "lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
    "peft": written(lambda p: "base_model.model." + p, "lora_A.weight", "lora_B.weight"),
    "peft_adapter": written(lambda p: "base_model.model.unet." + p, "lora_A.oil.weight", "lora_B.oil.weight"),
    "diffusers_processor": written(processor, "down.weight", "up.weight", only=ATTENTION),
}


def same(expert, scale=2.0, only=tuple(UPDATES), dtype=torch.float32):
    assert set(expert.layers) == set(only)
    for path, layer in expert.layers.items():
        assert torch.equal(layer.down, UPDATES[path][0].to(dtype))
        assert torch.equal(layer.up, UPDATES[path][1].to(dtype))
        assert layer.scale == pytest.approx(scale)
        assert layer.rows is None
