"""DoRA files: magnitudes in LyCORIS' and PEFT's layouts, of whole and of fused layers, and what does not fit."""

import json

import pytest
import torch
from lora_layouts import ATTENTION, LAYOUTS, UPDATES, same
from safetensors.torch import save_file

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert

PATH = ATTENTION[0]
KOHYA = "lora_unet_" + PATH.replace(".", "_")
OUT, IN = 8, 6


def one_layer(layout="kohya", key=KOHYA, **more):
    state = {name: tensor for name, tensor in LAYOUTS[layout].items() if name.startswith(key + ".")}
    assert state
    return {**state, **{f"{key}.{role}": tensor for role, tensor in more.items()}}


@pytest.mark.parametrize(
    ("shape", "by_input"),
    [((OUT, 1), False), ((OUT,), False), ((OUT, 1, 1, 1), False), ((1, IN), True), ((1, IN, 1, 1), True)],
)
def test_scales_of_lycoris(shape, by_input):
    values = torch.rand(shape)
    (layer,) = load_expert(one_layer(dora_scale=values), name="x").layers.values()
    assert torch.equal(layer.magnitude.values, values.flatten())
    assert layer.magnitude.by_input == by_input
    assert layer.magnitude.merged == by_input, "as ComfyUI's loader: rows of the weight alone, columns of the sum"
    torch.testing.assert_close(layer.down, UPDATES[PATH][0])


@pytest.mark.parametrize("ending", ["lora_magnitude_vector", "lora_magnitude_vector.weight"])
@pytest.mark.parametrize("shape", [(OUT,), (1, OUT, 1, 1)])
def test_magnitudes_of_peft(ending, shape):
    values = torch.rand(shape)
    state = one_layer("peft", "base_model.model." + PATH, **{ending: values})
    (layer,) = load_expert(state, name="x").layers.values()
    assert torch.equal(layer.magnitude.values, values.flatten())
    assert layer.magnitude.merged


@pytest.mark.parametrize("shape", [(OUT + 1, 1), (OUT, 2), (2, IN), (1, 1, IN)])
def test_scales_of_a_wrong_shape_name_the_layer(shape):
    with pytest.raises(RegionStyleError, match=r"dora_scale of down_blocks.*to_k: got \[.*expected \[8,1\]"):
        load_expert(one_layer(dora_scale=torch.rand(shape)), name="x")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"dora_scale": torch.tensor(1.0)}, r"dora_scale of .*torch.float32 \[\]"),
        ({"dora_scale": torch.full((OUT, 1), torch.nan)}, "dora_scale of .*NaN"),
        ({"dora_scale": torch.ones(OUT, 1, dtype=torch.int32)}, "dora_scale of .*int32"),
        ({"lora_magnitude_vector": torch.ones(OUT - 1)}, r"lora_magnitude_vector of .*\[7\].*\[8\]"),
        ({"lora_magnitude_vector": torch.ones(OUT), "dora_scale": torch.ones(OUT, 1)}, "one of them"),
    ],
)
def test_magnitudes_that_are_none_are_refused(more, says):
    with pytest.raises(RegionStyleError, match=says):
        load_expert(one_layer(**more), name="x")


def test_a_scale_without_a_layer_is_listed():
    with pytest.raises(RegionStyleError, match="down or up missing"):
        load_expert({**LAYOUTS["kohya"], "lora_unet_mid_block_attentions_0_proj_in.dora_scale": torch.ones(8, 1)},
                    name="x")  # fmt: skip


def test_fused_layers_are_taken_apart_with_their_rows():
    """ComfyUI's FLUX computes queries, keys and values in one layer of 3 x 4 rows."""
    values, key = torch.arange(12.0), "diffusion_model.double_blocks.0.img_attn.qkv"
    state = {f"{key}.lora_down.weight": torch.rand(2, 4), f"{key}.lora_up.weight": torch.rand(12, 2)}
    expert = load_expert({**state, f"{key}.dora_scale": values[:, None]}, name="x")
    found = {path.rsplit(".")[-1]: layer.magnitude.values.tolist() for path, layer in expert.layers.items()}
    assert found == {"to_q": [0, 1, 2, 3], "to_k": [4, 5, 6, 7], "to_v": [8, 9, 10, 11]}
    with pytest.raises(RegionStyleError, match="by input columns in double_blocks.*wd_on_output"):
        load_expert({**state, f"{key}.dora_scale": torch.rand(1, 4)}, name="x")


def test_a_peft_folder_that_says_dora_has_magnitudes(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 3, "use_dora": True}))
    state = {key: tensor for key, tensor in LAYOUTS["peft"].items() if not key.endswith("alpha")}
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(RegionStyleError, match="without magnitudes"):
        load_expert(tmp_path, name="x")
    more = {f"base_model.model.{path}.lora_magnitude_vector": torch.rand(OUT) for path in UPDATES}
    save_file(state | more, tmp_path / "adapter_model.safetensors")
    expert = load_expert(tmp_path, name="x")
    same(expert, scale=1.0)
    assert all(layer.magnitude is not None for layer in expert.layers.values())


def test_a_dora_is_not_saved_as_something_else(tmp_path):
    expert = load_expert(one_layer(dora_scale=torch.rand(OUT, 1)), name="x")
    with pytest.raises(RegionStyleError, match="DoRA in .*Keep the file"):
        save_expert(expert, tmp_path / "a.safetensors")
