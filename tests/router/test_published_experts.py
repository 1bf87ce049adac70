"""Files in the layout of RegionRoute's published experts: read whole, refused when anything is missing or misshapen."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.registry import family_of
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert
from regionstyle.nodes.router.experts import StackedExpert
from regionstyle.nodes.router.published_experts import load_style_expert, published_layers


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def published(prefix="transformer.", dtype=torch.float32, rank=4, width=3072):
    """Random tensors under the keys of the published files."""
    names = [f"transformer_blocks.{i}.attn.{p}" for i in range(19) for p in ("to_q", "to_k", "to_v", "to_out.0")]
    names += [f"single_transformer_blocks.{j}.attn.{p}" for j in range(38) for p in ("to_q", "to_k", "to_v")]
    down, up = random(rank, width).to(dtype), random(width, rank, seed=1).to(dtype)
    state = {}
    for number, name in enumerate(names):
        state[f"{prefix}{name}.lora_A.weight"] = down * (number + 1)
        state[f"{prefix}{name}.lora_B.weight"] = up / (number + 1)
    return state


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "pixel-art.safetensors"
    save_file(published(), path, metadata={"format": "pt"})
    return path


def test_the_file_has_the_size_and_the_numbers_that_were_published(file):
    state = load_file(file)
    assert len(state) == 380
    assert sum(tensor.numel() for tensor in state.values()) == 4_669_440
    expert = load_style_expert(file)
    assert sorted(expert.layers) == sorted(published_layers())
    assert all(layer.scale == 1 and layer.rank == 4 for layer in expert.layers.values())
    assert (expert.name, expert.style) == ("pixel-art", "pixel-art")
    layer = expert.layers["single_transformer_blocks.37.attn.to_v"]
    assert torch.equal(layer.up, state["transformer.single_transformer_blocks.37.attn.to_v.lora_B.weight"])


@pytest.mark.parametrize(
    ("prefix", "dtype"),
    [("", torch.bfloat16), ("base_model.model.", torch.float16), ("diffusion_model.", torch.float32)],
)
def test_other_prefixes_and_types_are_the_same_expert(prefix, dtype, tmp_path):
    path = tmp_path / "line-art.safetensors"
    save_file(published(prefix, dtype), path)
    assert sorted(load_style_expert(path).layers) == sorted(published_layers())


@pytest.mark.slow
def test_every_layer_is_one_of_the_real_transformer():
    """FLUX.1's own sizes, without memory."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        network = FluxTransformer2DModel(guidance_embeds=True)
    places = family_of(network).layer_slices(network)
    modules = dict(network.named_modules())
    for path in published_layers():
        layer = modules[places[path].module]
        assert (layer.in_features, layer.out_features) == (3072, 3072)
    # every q, k, v and output projection of the picture's stream, and no other
    ends = (".attn.to_q", ".attn.to_k", ".attn.to_v", ".attn.to_out.0")
    assert sorted(published_layers()) == sorted(path for path in places if path.endswith(ends))


def test_a_fused_kohya_file_has_the_same_effect(file, tmp_path):
    """Rows of A stacked, B on the block diagonal, zeros for what is not trained."""
    expert, state = load_style_expert(file), {}
    for name, parts, rows in (
        ("double_blocks_3_img_attn_qkv", [f"transformer_blocks.3.attn.to_{n}" for n in "qkv"], 9216),
        ("single_blocks_5_linear1", [f"single_transformer_blocks.5.attn.to_{n}" for n in "qkv"], 21504),
    ):
        layers = [expert.layers[part] for part in parts]
        up = torch.block_diag(*(layer.up for layer in layers))
        state[f"lora_unet_{name}.lora_down.weight"] = torch.cat([layer.down for layer in layers])
        state[f"lora_unet_{name}.lora_up.weight"] = torch.cat([up, torch.zeros(rows - len(up), 12)])
        state[f"lora_unet_{name}.alpha"] = torch.tensor(12.0)
    found = load_expert(state, name="kohya")
    for path in ("transformer_blocks.3.attn.to_k", "single_transformer_blocks.5.attn.to_v"):
        one, other = found.layers[path], expert.layers[path]
        wanted = other.up @ other.down
        assert float((one.scale * one.up @ one.down - wanted).norm() / wanted.norm()) < 1e-6
    assert not found.layers["single_transformer_blocks.5.proj_mlp"].up.any()


def test_what_is_saved_again_is_read_again(file, tmp_path):
    expert = load_style_expert(file)
    (tmp_path / "new").mkdir()
    save_expert(expert, tmp_path / "new" / "pixel-art.safetensors")
    found = load_style_expert(tmp_path / "new" / "pixel-art.safetensors")
    assert all(torch.equal(found.layers[path].down, layer.down) for path, layer in expert.layers.items())


def drop(state):
    for part in "AB":
        del state[f"transformer.transformer_blocks.18.attn.to_out.0.lora_{part}.weight"]


def add(state):
    state["transformer.transformer_blocks.19.attn.to_q.lora_A.weight"] = random(4, 3072)
    state["transformer.transformer_blocks.19.attn.to_q.lora_B.weight"] = random(3072, 4)


def narrow(state):
    state["transformer.transformer_blocks.0.attn.to_k.lora_A.weight"] = random(4, 1536)


def scaled(state):
    state["transformer.transformer_blocks.0.attn.to_k.alpha"] = torch.tensor(8.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop, r"378 tensors, without transformer_blocks.18.attn.to_out.0 \(1 such\), expected 380"),
        (add, r"382 tensors, with unknown transformer_blocks.19.attn.to_q"),
        (narrow, r"misshapen transformer_blocks.0.attn.to_k \[4, 1536\] and \[3072, 4\], scale 1"),
        (scaled, r"scale 2"),
    ],
)
def test_a_file_that_is_not_whole_says_what_is_wrong(change, said, tmp_path):
    state = published()
    change(state)
    path = tmp_path / "cyberpunk.safetensors"
    save_file(state, path)
    with pytest.raises(RegionStyleError, match=f"cyberpunk.safetensors: got .*{said}"):
        StackedExpert(path, "cyberpunk", ("cyberpunk",)).load(None)
    path.rename(tmp_path / "mine.safetensors")
    load_style_expert(tmp_path / "mine.safetensors")  # another LoRA may have any layers


def test_another_lora_of_that_name_is_let_through(tmp_path):
    state = {k: v for k, v in published(rank=8, width=16).items() if "single" in k}
    path = tmp_path / "pixel-art.safetensors"
    save_file(state, path)
    assert len(load_style_expert(path).layers) == 114
