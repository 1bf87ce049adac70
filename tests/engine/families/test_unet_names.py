"""Names of U-Net layers: between the original code's and diffusers', with dots and with underscores."""

import pytest
import torch
from lora_layouts import PLACES
from torch import nn

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.families.unet_names import guess_counts, table_lookup, to_diffusers, unet_paths, with_dots
from regionstyle.nodes.engine.lora.load import load_expert


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
