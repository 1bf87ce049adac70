"""LoRA files in every layout: each gives the same expert as the kohya file of the same update."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.unet_names import guess_counts, table_lookup, to_diffusers, unet_paths, with_dots
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.lora.files import load_expert, save_expert

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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_diffusers_paths(layout, tmp_path):
    only = ATTENTION if layout == "diffusers_processor" else tuple(UPDATES)
    same(load_expert(LAYOUTS[layout], name="x"), only=only)
    save_file(LAYOUTS[layout], tmp_path / "oil paint.safetensors")
    expert = load_expert(tmp_path / "oil paint.safetensors")
    same(expert, only=only)
    assert expert.name == "oil paint"


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("alpha", torch.tensor([1.0, 2.0]), r"alpha of down_blocks.*got torch.float32 \[2\]"),
        ("alpha", torch.tensor(float("nan")), "alpha of .* NaN"),
        ("lora_up.weight", torch.full((8, 3), float("inf")), "up of .* infinity"),
        ("lora_down.weight", torch.ones(3, 6, dtype=torch.int32), r"down of .* torch.int32 \[3, 6\]"),
    ],
)
def test_numbers_that_are_none_are_refused(part, value, said):
    key = "lora_unet_" + ATTENTION[0].replace(".", "_")
    state = {k: tensor for k, tensor in LAYOUTS["kohya"].items() if k.startswith(key)}
    assert f"{key}.{part}" in state
    with pytest.raises(RegionStyleError, match=said):
        load_expert({**state, f"{key}.{part}": value}, name="x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_and_no_alpha(dtype, tmp_path):
    state = {k: v.to(dtype) for k, v in LAYOUTS["kohya"].items() if not k.endswith(".alpha")}
    save_file(state, tmp_path / "half.safetensors")
    same(load_expert(tmp_path / "half.safetensors"), scale=1.0, dtype=dtype)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 6}, 2.0),
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 3**0.5),
        ({"lora_alpha": 1, "alpha_pattern": {r"conv_in|.*\.\w+|conv_out": 6}}, 2.0),
    ],
)
def test_peft_folder(config, scale, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, **config}))
    state = {key: tensor for key, tensor in LAYOUTS["peft"].items() if not key.endswith("alpha")}
    save_file(state, tmp_path / "adapter_model.safetensors")
    same(load_expert(tmp_path, name="x"), scale=scale)


def test_a_file_that_diffusers_writes_with_its_configuration_in_the_header(tmp_path):
    state = {key: tensor for key, tensor in LAYOUTS["diffusers_peft"].items() if not key.endswith("alpha")}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 6})}
    save_file(state, tmp_path / "a.safetensors", metadata=header)
    same(load_expert(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_a_scale_read_from_a_header_is_not_applied_again_after_saving(layout, tmp_path):
    only = ["conv_in"]
    state = written(lambda p: "unet." + p, "lora_A.weight", "lora_B.weight", alpha=None, only=only)
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 3, "unet.lora_alpha": 6}), "seed": "4"}
    save_file(state, tmp_path / "a.safetensors", metadata=header)
    save_expert(load_expert(tmp_path / "a.safetensors"), tmp_path / "b.safetensors", layout=layout)
    expert = load_expert(tmp_path / "b.safetensors")
    layer, (_, up) = expert.layers["conv_in"], UPDATES["conv_in"]
    torch.testing.assert_close(layer.up * layer.scale, up * 2)
    assert expert.metadata["seed"] == "4"


def test_a_folder_that_peft_writes(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(
        nn.ModuleDict({"conv_in": nn.Conv2d(6, 8, 3)}), LoraConfig(r=2, lora_alpha=8, target_modules=["conv_in"])
    )
    wrapped = model.base_model.model["conv_in"]
    wrapped.lora_B["default"].weight.data.normal_()
    model.save_pretrained(tmp_path)
    layer = load_expert(tmp_path, name="x").layers["conv_in"]
    assert torch.equal(layer.down, wrapped.lora_A["default"].weight)
    assert torch.equal(layer.up, wrapped.lora_B["default"].weight)
    assert layer.scale == 4


def test_save_and_load_keep_tensors_scale_name_style_and_metadata(tmp_path):
    layers = {path: LoraLayer(*UPDATES[path], 0.37) for path in UPDATES}
    save_expert(Expert("oil", layers, "oil painting", {"seed": "4"}), tmp_path / "new" / "file.safetensors")
    expert = load_expert(tmp_path / "new" / "file.safetensors")
    same(expert, scale=0.37)
    assert (expert.name, expert.style, expert.metadata["seed"]) == ("oil", "oil painting", "4")
    with safe_open(tmp_path / "new" / "file.safetensors", "pt") as file:
        assert "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight" in file.keys()  # noqa: SIM118


# --- errors ------------------------------------------------------------------------------------------------------


def test_two_adapters_in_one_file_are_refused():
    state = {}
    for adapter in ("first", "second"):
        down, up = f"lora_A.{adapter}.weight", f"lora_B.{adapter}.weight"
        state |= written(lambda path: f"unet.{path}", down, up, None, ATTENTION)
    state = {key: tensor.clone() for key, tensor in state.items()}
    with pytest.raises(RegionStyleError, match="lora_A.second.weight .a second one"):
        load_expert(state, name="both")


def test_all_unmatched_keys_are_listed():
    state = {
        **LAYOUTS["kohya"],
        "lora_unet_blocks_3_wq.lora_up.weight": torch.zeros(1),
        "conv_in.mystery": torch.zeros(1),
    }
    with pytest.raises(RegionStyleError, match=r"(?s)lora_unet_blocks_3_wq\.lora_up.*conv_in\.mystery"):
        load_expert(state, name="x")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("base_model.model.conv_in.lora_magnitude_vector.weight", "DoRA"),
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lycoris_conv_in.lokr_w2", "LoKr"),
        ("lora_unet_conv_in.lora_mid.weight", "Tucker"),
        ("oft_unet_conv_in.oft_blocks", "OFT"),
    ],
)
def test_adapters_of_another_kind_are_refused_by_name(key, kind):
    with pytest.raises(RegionStyleError, match=kind):
        load_expert({**LAYOUTS["kohya"], key: torch.zeros(1)}, name="x")


def test_half_an_update_is_listed():
    state = {key: tensor for key, tensor in LAYOUTS["kohya"].items() if key != "lora_unet_conv_in.lora_up.weight"}
    with pytest.raises(RegionStyleError, match=r"conv_in \(down or up missing\)"):
        load_expert(state, name="x")


@pytest.mark.parametrize(
    "key", ["lora_te_text_model_encoder_layers_0_mlp_fc1", "lora_te2_x", "text_encoder.text_model.x", "te1.x"]
)
def test_text_encoder_updates_are_an_error_or_reported(key):
    extra = {f"{key}.lora_down.weight": torch.zeros(2, 3)}
    with pytest.raises(RegionStyleError, match="text encoder"):
        load_expert({**LAYOUTS["kohya"], **extra}, name="x")
    expert = load_expert({**LAYOUTS["kohya"], **extra}, name="x", ignore_text_encoder=True)
    same(expert)
    assert expert.unused == tuple(extra)


def test_only_readable_safetensors_files_are_opened(tmp_path):
    for name in ("model.ckpt", "broken.safetensors"):
        (tmp_path / name).write_bytes(b"not tensors")
        with pytest.raises(RegionStyleError, match=name):
            load_expert(tmp_path / name)
    with pytest.raises(RegionStyleError, match="does not exist"):
        load_expert(tmp_path / "missing.safetensors")
    with pytest.raises(RegionStyleError, match="adapter_config"):
        load_expert(tmp_path)


@pytest.mark.parametrize("config", [{"peft_type": "LOHA"}, {"peft_type": "LORA", "use_dora": True}])
def test_other_adapters_of_peft_are_refused(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RegionStyleError, match="LOHA|DoRA"):
        load_expert(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "readable JSON"),
        (b"\xff\xfe\x00{", "readable JSON"),
        (b"[1, 2]", "holds a list"),
        (b'{"peft_type": "LORA", "lora_alpha": "big"}', "lora_alpha = 'big'"),
        (b'{"peft_type": "LORA", "alpha_pattern": [4]}', r"alpha_pattern = \[4\]"),
    ],
)
def test_a_damaged_peft_configuration_is_one_clear_error(content, says, tmp_path):
    save_file({f"base_model.model.{key}": value for key, value in LAYOUTS["diffusers"].items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    (tmp_path / "adapter_config.json").write_bytes(content)
    with pytest.raises(RegionStyleError, match=f"LoRA file: got .*{says}") as found:
        load_expert(tmp_path, name="x")
    assert str(tmp_path) in str(found.value)


def test_a_damaged_header_is_one_clear_error(tmp_path):
    path = tmp_path / "styles.safetensors"
    save_file(LAYOUTS["kohya"], path)
    data = path.read_bytes()
    save_file(LAYOUTS["kohya"], path, metadata={"lora_adapter_metadata": '{"unet.r": '})
    for content in (path.read_bytes(), data[:8] + b"[" + data[9:], data[:-4], b""):
        path.write_bytes(content)
        with pytest.raises(RegionStyleError, match="LoRA file: got .*styles.safetensors"):
            load_expert(path)


def test_saving_refuses_what_the_layout_cannot_hold(tmp_path):
    layers = {"conv_in": LoraLayer(*UPDATES["conv_in"])}
    rows = {"conv_in": LoraLayer(*UPDATES["conv_in"], 1.0, slice(0, 8))}
    for expert, name, layout in [
        (layers, "a.pt", "kohya"),
        (layers, "a.safetensors", "x"),
        (rows, "a.safetensors", "kohya"),
    ]:
        with pytest.raises(RegionStyleError):
            save_expert(Expert("x", expert), tmp_path / name, layout=layout)
    assert not list(tmp_path.iterdir())


def test_misshapen_layers_are_refused():
    for down, up in [((2, 3), (4, 5)), ((2, 3), (4, 2, 3, 3)), ((2,), (4, 2)), ((0, 3), (4, 0))]:
        with pytest.raises(RegionStyleError, match="LoRA layer"):
            LoraLayer(torch.zeros(down), torch.zeros(up))
    with pytest.raises(RegionStyleError, match="no layers"):
        Expert("x", {})
    with pytest.raises(RegionStyleError, match="name"):
        Expert("", {"conv_in": LoraLayer(*UPDATES["conv_in"])})


# --- names -------------------------------------------------------------------------------------------------------


def tree(paths):
    """A network that has these modules and nothing else."""
    root = nn.Module()
    for path in paths:
        module = root
        for part in path.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
    return root


def ldm_names(counts):
    """Module names of an ldm U-Net with these residual blocks per resolution (attention everywhere)."""
    names, block = ["input_blocks.0.0"], 1
    for level, count in enumerate(counts):
        for _ in range(count):
            names += [f"input_blocks.{block}.0.in_layers.2", f"input_blocks.{block}.1.proj_in"]
            block += 1
        if level + 1 < len(counts):
            names.append(f"input_blocks.{block}.0.op")
            block += 1
    names.append("middle_block.1.proj_in")
    block = 0
    for level, count in enumerate(reversed(counts)):
        for index in range(count + 1):
            names += [f"output_blocks.{block}.0.in_layers.2", f"output_blocks.{block}.1.proj_in"]
            if index == count and level + 1 < len(counts):
                names.append(f"output_blocks.{block}.2.conv")
            block += 1
    return names


def diffusers_names(counts):
    names = ["conv_in", "mid_block.attentions.0.proj_in"]
    for level, count in enumerate(counts):
        for i in range(count):
            names += [f"down_blocks.{level}.resnets.{i}.conv1", f"down_blocks.{level}.attentions.{i}.proj_in"]
        names += [f"down_blocks.{level}.downsamplers.0.conv"] * (level + 1 < len(counts))
    for level, count in enumerate(reversed(counts)):
        for i in range(count + 1):
            names += [f"up_blocks.{level}.resnets.{i}.conv1", f"up_blocks.{level}.attentions.{i}.proj_in"]
        names += [f"up_blocks.{level}.upsamplers.0.conv"] * (level + 1 < len(counts))
    return names


@pytest.mark.parametrize("counts", [[1, 1], [2, 2, 2, 2], [2, 2, 2], [3, 1, 2], [1]])
def test_block_numbers_follow_the_networks_structure(counts):
    paths = unet_paths(tree(ldm_names(counts)))
    assert set(diffusers_names(counts)) <= set(paths)
    leaves = {path: name for path, name in paths.items() if name in ldm_names(counts)}
    assert set(leaves) == set(diffusers_names(counts))
    assert len(set(leaves.values())) == len(ldm_names(counts))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_files_reveal_how_many_blocks_a_resolution_has(count):
    names = ldm_names([count] * 3)
    guess = table_lookup(guess_counts(names))
    assert {to_diffusers(name, guess) for name in names} == set(diffusers_names([count] * 3))
    with pytest.raises(RegionStyleError, match="load_expert"):
        guess_counts(ldm_names([1, 3, 2]))


def test_the_network_decides_where_its_file_is_ambiguous():
    state = {
        "diffusion_model.output_blocks.2.1.proj_in.lora_down.weight": torch.zeros(1, 6),
        "diffusion_model.output_blocks.2.1.proj_in.lora_up.weight": torch.zeros(8, 1),
    }
    assert list(load_expert(state, name="x").layers) == ["up_blocks.0.attentions.2.proj_in"]
    for network in (tree(ldm_names([1, 1])), tree(diffusers_names([1, 1]))):
        assert list(load_expert(state, name="x", network=network).layers) == ["up_blocks.1.attentions.0.proj_in"]


def test_underscores_are_parted_only_for_known_names():
    for path, ldm, _ in PLACES:
        assert with_dots(path.replace(".", "_")) == path
        assert with_dots(ldm.replace(".", "_")) == ldm
    assert with_dots("down_blocks_0_mystery") is None
    assert with_dots("convs") is None
