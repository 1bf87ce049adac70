"""LoRA files of FLUX.1 and SD3 in every layout: fused layers are taken apart, and written files are read back."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.flux import Flux
from regionstyle.nodes.engine.families.joint_names import token_kind
from regionstyle.nodes.engine.families.layers import LayerSlice
from regionstyle.nodes.engine.families.registry import layer_name
from regionstyle.nodes.engine.families.sd3 import StableDiffusion3
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert

WIDTH, RANK = 6, 2


def thirds(pattern):
    """Diffusers paths of queries, keys and values, with their rows."""
    return {pattern.format(n): (WIDTH * at, WIDTH * at + WIDTH) for at, n in enumerate("qkv")}


# ldm name, output rows, diffusers paths with their rows
FUSED = [
    ("double_blocks.3.img_attn.qkv", 18, thirds("transformer_blocks.3.attn.to_{}")),
    ("double_blocks.3.txt_attn.qkv", 18, thirds("transformer_blocks.3.attn.add_{}_proj")),
    ("joint_blocks.2.x_block.attn2.qkv", 18, thirds("transformer_blocks.2.attn2.to_{}")),
    ("joint_blocks.2.context_block.attn.qkv", 18, thirds("transformer_blocks.2.attn.add_{}_proj")),
    (
        "single_blocks.11.linear1",
        42,
        thirds("single_transformer_blocks.11.attn.to_{}") | {"single_transformer_blocks.11.proj_mlp": (18, 42)},
    ),
]
WHOLE = [
    ("double_blocks.0.img_mlp.0", "transformer_blocks.0.ff.net.0.proj"),
    ("double_blocks.18.txt_attn.proj", "transformer_blocks.18.attn.to_add_out"),
    ("double_blocks.0.txt_mod.lin", "transformer_blocks.0.norm1_context.linear"),
    ("single_blocks.37.linear2", "single_transformer_blocks.37.proj_out"),
    ("single_blocks.0.modulation.lin", "single_transformer_blocks.0.norm.linear"),
    ("guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"),
    ("joint_blocks.1.x_block.mlp.fc2", "transformer_blocks.1.ff.net.2"),
    ("final_layer.linear", "proj_out"),
]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(key, outputs=WIDTH, down="lora_down.weight", up="lora_up.weight", alpha=6.0):
    state = {f"{key}.{down}": random(RANK, WIDTH, seed=1), f"{key}.{up}": random(outputs, RANK, seed=2)}
    return state if alpha is None else {**state, f"{key}.alpha": torch.tensor(alpha)}


def written(layout, name):
    return {
        "kohya": "lora_unet_" + name.replace(".", "_"),
        "comfy": "diffusion_model." + name,
        "bare": name,
    }[layout]


@pytest.mark.parametrize("layout", ["kohya", "comfy", "bare"])
@pytest.mark.parametrize(("name", "outputs", "expected"), FUSED)
def test_fused_layers_are_taken_apart(layout, name, outputs, expected):
    state = lora(written(layout, name), outputs)
    expert = load_expert(state, name="x")
    assert set(expert.layers) == set(expected)
    for path, (first, last) in expected.items():
        layer = expert.layers[path]
        assert torch.equal(layer.up, random(outputs, RANK, seed=2)[first:last])
        assert torch.equal(layer.down, random(RANK, WIDTH, seed=1))
        assert layer.scale == 3


@pytest.mark.parametrize(("name", "path"), WHOLE)
@pytest.mark.parametrize("layout", ["kohya", "comfy"])
def test_other_layers_have_one_name_each(layout, name, path):
    expert = load_expert(lora(written(layout, name)), name="x")
    assert list(expert.layers) == [path]
    assert torch.equal(expert.layers[path].up, random(WIDTH, RANK, seed=2))


@pytest.mark.parametrize(
    ("name", "outputs", "path"),
    [
        ("final_layer.adaLN_modulation.1", 12, "norm_out.linear"),
        ("joint_blocks.23.context_block.adaLN_modulation.1", 12, "transformer_blocks.23.norm1_context.linear"),
    ],
)
def test_the_last_modulations_have_scale_and_shift_exchanged(name, outputs, path):
    layer = load_expert(lora(written("kohya", name), outputs), name="x").layers[path]
    up = random(outputs, RANK, seed=2)
    assert torch.equal(layer.up, torch.cat([up[6:], up[:6]]))
    # The text's modulation in any block but the last has six parts, in diffusers' order.
    name = "joint_blocks.2.context_block.adaLN_modulation.1"
    assert StableDiffusion3.names.slices(name, 6, 36) == [LayerSlice(name, "transformer_blocks.2.norm1_context.linear")]


@pytest.mark.parametrize(
    ("key", "down", "up"),
    [
        ("transformer.{}", "lora_A.weight", "lora_B.weight"),
        ("{}", "lora_A.weight", "lora_B.weight"),
        ("base_model.model.{}", "lora_A.weight", "lora_B.weight"),
        ("base_model.model.{}", "lora_A.default.weight", "lora_B.default.weight"),
        ("lora_transformer_{}", "lora_down.weight", "lora_up.weight"),
        ("lycoris_{}", "lora_down.weight", "lora_up.weight"),
    ],
)
def test_layouts_with_the_names_of_diffusers(key, down, up):
    paths = ["single_transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff_context.net.0.proj", "norm_out.linear"]
    state = {}
    for path in paths:
        state.update(lora(key.format(path.replace(".", "_") if key.endswith("_{}") else path), 12, down, up))
    expert = load_expert(state, name="x")
    assert sorted(expert.layers) == sorted(paths)
    assert all(torch.equal(layer.up, random(12, RANK, seed=2)) for layer in expert.layers.values())


@pytest.mark.parametrize(
    ("block", "own", "ldm", "outputs"),
    [
        ("double_blocks.3", "qkv_lora1", "img_attn.qkv", 24),
        ("double_blocks.3", "qkv_lora2", "txt_attn.qkv", 24),
        ("double_blocks.3", "proj_lora1", "img_attn.proj", 8),
        ("double_blocks.3", "proj_lora2", "txt_attn.proj", 8),
        ("single_blocks.3", "qkv_lora", "linear1_qkv", 24),
        ("single_blocks.3", "proj_lora", "linear2", 8),
    ],
)
def test_the_layout_of_xlabs_is_that_of_comfyui_under_other_names(block, own, ldm, outputs):
    down, up = torch.randn(2, 8), torch.randn(outputs, 2)
    expert, same = (
        load_expert({f"{key}.{part}.weight": tensor for part, tensor in parts.items()}, name="x")
        for key, parts in (
            (f"{block}.processor.{own}", {"down": down, "up": up}),
            (f"diffusion_model.{block}.{ldm}", {"lora_down": down, "lora_up": up}),
        )
    )
    assert len(expert.layers) == (3 if outputs == 24 else 1)
    assert set(expert.layers) == set(same.layers)
    for path, layer in expert.layers.items():
        assert torch.equal(layer.up @ layer.down, same.layers[path].up @ same.layers[path].down)
    rows = torch.cat([layer.up for layer in expert.layers.values()])
    assert torch.equal(rows, up)


def test_save_and_load_keep_everything_and_write_the_names_of_diffusers(tmp_path):
    paths = ["transformer_blocks.0.attn.to_out.0", "single_transformer_blocks.0.proj_out", "x_embedder"]
    layers = {
        path: LoraLayer(random(RANK, WIDTH, seed=at), random(4, RANK, seed=9), 0.3) for at, path in enumerate(paths)
    }
    save_expert(Expert("oil", layers, "oil painting"), tmp_path / "a.safetensors")
    expert = load_expert(tmp_path / "a.safetensors")
    assert (expert.name, expert.style, set(expert.layers)) == ("oil", "oil painting", set(paths))
    for path, layer in layers.items():
        assert torch.equal(expert.layers[path].down, layer.down)
        assert torch.equal(expert.layers[path].up, layer.up)
        assert expert.layers[path].scale == pytest.approx(0.3)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert "transformer.transformer_blocks.0.attn.to_out.0.lora_A.weight" in file.keys()  # noqa: SIM118
    with pytest.raises(RegionStyleError, match="'diffusers'"):
        save_expert(Expert("oil", layers), tmp_path / "b.safetensors", layout="kohya")


def test_the_files_saved_here_load_in_diffusers_with_the_same_effect(tmp_path):
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 6, 6),
    ).eval()  # fmt: skip
    paths = ["transformer_blocks.0.attn.to_k", "single_transformer_blocks.0.proj_mlp"]
    weights = {path: network.get_submodule(path).weight.detach().clone() for path in paths}
    layers = {p: LoraLayer(random(RANK, w.shape[1]), random(len(w), RANK, seed=1), 0.5) for p, w in weights.items()}
    save_expert(Expert("oil", layers), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    alphas = {key: float(state.pop(key)) for key in list(state) if key.endswith("alpha")}
    network.load_lora_adapter(state, prefix="transformer", network_alphas=alphas)
    network.fuse_lora()
    for path, layer in layers.items():
        expected = weights[path] + 0.5 * layer.up @ layer.down
        torch.testing.assert_close(network.get_submodule(path).base_layer.weight, expected)


def test_the_header_of_diffusers_gives_the_scale(tmp_path):
    state = lora("transformer.x_embedder", down="lora_A.weight", up="lora_B.weight", alpha=None)
    header = {"lora_adapter_metadata": json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 8})}
    save_file(state, tmp_path / "a.safetensors", metadata=header)
    assert load_expert(tmp_path / "a.safetensors").layers["x_embedder"].scale == 4


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["double_blocks.0.img_attn.norm.query_norm", "double_blocks.0.processor.qkv_lora1", "single_blocks.0.x"]
)
def test_unknown_layers_are_listed(name):
    with pytest.raises(RegionStyleError, match="double_blocks|single_blocks"):
        load_expert({**lora("diffusion_model.img_in"), **lora("diffusion_model." + name)}, name="x")


def test_fused_layers_of_another_size_are_refused():
    with pytest.raises(RegionStyleError, match="img_attn"):
        load_expert(lora("diffusion_model.double_blocks.0.img_attn.qkv", 17), name="x")


@pytest.mark.parametrize("key", ["t5xxl.x", "text_encoders.clip_l.transformer.x", "lora_te1_x", "text_encoder_2.x"])
def test_text_encoder_updates_are_left_out_with_a_word_in_the_log(key, caplog):
    state = {**lora("transformer.x_embedder"), f"{key}.lora_down.weight": torch.zeros(2, 3)}
    with pytest.raises(RegionStyleError, match="text encoder"):
        load_expert(state, name="x")
    expert = load_expert(state, name="oil", ignore_text_encoder=True)
    assert expert.unused == (f"{key}.lora_down.weight",)
    assert "'oil': 1 keys" in caplog.text


# --- names -------------------------------------------------------------------------------------------------------


def test_underscores_are_parted_only_for_layers_of_these_networks():
    for name in [name for name, *_ in (*FUSED, *WHOLE)] + [path for _, path in WHOLE]:
        assert layer_name(name.replace(".", "_")) == name
    for family in (Flux, StableDiffusion3):
        assert family.names.with_dots("down_blocks_0_attentions_0_proj_in") is None
    assert layer_name("double_blocks_0_mystery") is None


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("transformer_blocks.0.attn.to_q", "image"),
        ("transformer_blocks.0.attn2.to_q", "image"),
        ("transformer_blocks.0.attn.to_add_out", "text"),
        ("transformer_blocks.0.ff_context.net.2", "text"),
        ("transformer_blocks.0.norm1_context.linear", "none"),
        ("single_transformer_blocks.0.proj_out", "joint"),
        ("single_transformer_blocks.0.norm.linear", "none"),
        ("context_embedder", "text"),
        ("pos_embed.proj", "image"),
        ("proj_out", "image"),
        ("norm_out.linear", "none"),
        ("time_text_embed.text_embedder.linear_1", "none"),
    ],
)
def test_what_the_rows_of_a_layer_stand_for(path, rows):
    assert token_kind(path) == rows
