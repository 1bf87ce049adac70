"""Saving LoRA files: what comes back, and what no layout can hold."""

import json

import pytest
import torch
from lora_layouts import UPDATES, same, written
from safetensors import safe_open
from safetensors.torch import save_file

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.save import save_expert


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


def test_save_and_load_keep_tensors_scale_name_style_and_metadata(tmp_path):
    layers = {path: LoraLayer(*UPDATES[path], 0.37) for path in UPDATES}
    save_expert(Expert("oil", layers, "oil painting", {"seed": "4"}), tmp_path / "new" / "file.safetensors")
    expert = load_expert(tmp_path / "new" / "file.safetensors")
    same(expert, scale=0.37)
    assert (expert.name, expert.style, expert.metadata["seed"]) == ("oil", "oil painting", "4")
    with safe_open(tmp_path / "new" / "file.safetensors", "pt") as file:
        assert "lora_unet_down_blocks_0_resnets_0_conv1.lora_down.weight" in file.keys()  # noqa: SIM118


def test_saving_refuses_what_the_layout_cannot_hold(tmp_path):
    layers = {"conv_in": LoraLayer(*UPDATES["conv_in"])}
    rows = {"conv_in": LoraLayer(*UPDATES["conv_in"], 1.0, slice(0, 8))}
    for expert, name, layout, said in [
        (layers, "a.pt", "kohya", "path: got .*a.pt, expected"),
        (layers, "a.safetensors", "x", "layout: got 'x'"),
        (rows, "a.safetensors", "kohya", "expert: got row slices in .*conv_in"),
    ]:
        with pytest.raises(RegionStyleError, match=said):
            save_expert(Expert("x", expert), tmp_path / name, layout=layout)
    assert not list(tmp_path.iterdir())
