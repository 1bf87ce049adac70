"""LoRA files in every layout: each gives the same expert as the kohya file of the same update."""

import json
import math
import time

import pytest
import torch
from lora_layouts import ATTENTION, LAYOUTS, UPDATES, same, written
from safetensors.torch import save_file
from torch import nn

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.load import load_expert


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


@pytest.mark.parametrize("key", ["up", "down"])
@pytest.mark.parametrize("tensor", [torch.tensor(1.0), torch.ones(3), torch.ones(0, 6), torch.ones(3, 0)])
def test_tensors_without_rows_are_refused(key, tensor):
    name = "lora_unet_" + ATTENTION[0].replace(".", "_")
    state = {k: value for k, value in LAYOUTS["kohya"].items() if k.startswith(name)}
    with pytest.raises(RegionStyleError, match=f"{key} of .*a rank of 1 or more"):
        load_expert({**state, f"{name}.lora_{key}.weight": tensor}, name="x")


def test_a_header_that_would_be_a_regular_expression_without_end(tmp_path):
    """PEFT would match it against every layer: years. Here it is refused in no time."""
    config = json.dumps({"unet.lora_alpha": 4, "unet.alpha_pattern": {r"(([a-z_0-9]+)+\.?)+!": 8}})
    state = {key: tensor for key, tensor in LAYOUTS["diffusers_peft"].items() if not key.endswith("alpha")}
    save_file(state, tmp_path / "evil.safetensors", metadata={"lora_adapter_metadata": config})
    started = time.perf_counter()
    with pytest.raises(RegionStyleError, match="alpha_pattern.*write the layers out"):
        load_expert(tmp_path / "evil.safetensors")
    assert time.perf_counter() - started < 5


def test_many_patterns_and_keys_take_no_time(tmp_path):
    config = json.dumps({"unet.lora_alpha": 6, "unet.alpha_pattern": {f"layer.{i}": 8 for i in range(20000)}})
    state = {key: tensor for key, tensor in LAYOUTS["diffusers_peft"].items() if not key.endswith("alpha")}
    junk = {f"lora_te_text_model_{i}.alpha": torch.ones(()) for i in range(20000)}
    save_file({**state, **junk}, tmp_path / "many.safetensors", metadata={"lora_adapter_metadata": config})
    started = time.perf_counter()
    same(load_expert(tmp_path / "many.safetensors", ignore_text_encoder=True))
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    "config",
    [
        {"lora_alpha": math.nan},
        {"lora_alpha": math.inf},
        {"lora_alpha": True},
        {"lora_alpha": 10**400},
        {"lora_alpha": 4, "alpha_pattern": {"to_q": math.nan}},
        {"lora_alpha": 4, "alpha_pattern": {"to_q": "8"}},
    ],
)
def test_scales_that_are_no_numbers_are_refused(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, **config}))
    save_file(LAYOUTS["peft"], tmp_path / "adapter_model.safetensors")
    with pytest.raises(RegionStyleError, match="a finite number"):
        load_expert(tmp_path, name="x")


def test_a_key_without_end_is_refused_before_it_is_read(tmp_path):
    save_file({"unet." + "a" * 5000: torch.ones(1)}, tmp_path / "long.safetensors")
    with pytest.raises(RegionStyleError, match="at most 500 characters"):
        load_expert(tmp_path / "long.safetensors")


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
        ({"lora_alpha": 1, "alpha_pattern": dict.fromkeys(UPDATES, 6)}, 2.0),
        ({"lora_alpha": 1, "alpha_pattern": {path.split(".", 1)[-1] + "$": 6 for path in UPDATES}}, 2.0),
        ({"lora_alpha": 1, "alpha_pattern": {"^" + path.replace(".", r"\."): 6 for path in UPDATES}}, 2.0),
        # the end of a layer's name holds from a dot on, not amid a word; a whole name is no end
        ({"lora_alpha": 6, "alpha_pattern": {path[1:]: 1 for path in UPDATES}}, 2.0),
        ({"lora_alpha": 6, "alpha_pattern": {"^" + path.rsplit(".")[-1]: 1 for path in UPDATES if "." in path}}, 2.0),
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


@pytest.mark.parametrize("config", [{"peft_type": "LOHA"}, {"r": 4}])
def test_other_adapters_of_peft_are_refused(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RegionStyleError, match="type LOHA|type None"):
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
