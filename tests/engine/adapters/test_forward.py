"""What a mask means, layer by layer."""

import pytest
import torch
import torch.nn.functional as F
from adapter_networks import ATTENTION, CROSS, SIZE, at_layer, close, mask_of, merged, new_expert

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError


@pytest.mark.parametrize(
    ("path", "grid"),
    [
        ("conv_in", (12, 10)),
        ("down_blocks.0.resnets.0.conv1", (12, 10)),
        ("down_blocks.0.downsamplers.0.conv", (6, 5)),
        ("down_blocks.1.resnets.0.conv_shortcut", (6, 5)),
        ("up_blocks.0.upsamplers.0.conv", (12, 10)),
        ("down_blocks.0.attentions.0.proj_in", (12, 10)),
    ],
)
def test_a_mask_gates_every_output_pixel_of_a_convolution(unet, run, path, grid):
    expert = new_expert(unet, keep=lambda p: p == path)
    mask = mask_of(1, 24, 20)
    seen = at_layer(unet, path, run, ExpertStack(unet, [expert]), Gates({"sketch": mask}))
    module, layer = unet.get_submodule(path), expert.layers[path]
    update = (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(module.weight.shape) * layer.scale
    added = F.conv2d(seen["args"][0], update, None, module.stride, module.padding)
    small = mask.reshape(1, grid[0], 24 // grid[0], grid[1], 20 // grid[1]).mean((2, 4))
    close(seen["out"], module(seen["args"][0]) + small[:, None] * added)


@pytest.mark.parametrize("path", [CROSS.replace("attn2", "attn1.to_k"), CROSS.replace("attn2", "ff.net.2")])
def test_a_mask_gates_every_image_token_of_a_linear_layer(unet, run, path):
    expert = new_expert(unet, keep=lambda p: p == path)
    mask = mask_of(2, *SIZE)
    seen = at_layer(unet, path, run, ExpertStack(unet, [expert]), Gates({"sketch": mask}))
    layer, x = expert.layers[path], seen["args"][0]
    added = x @ layer.down.T @ layer.up.T * layer.scale
    close(seen["out"], unet.get_submodule(path)(x) + mask.flatten(1)[..., None] * added)


@pytest.mark.parametrize(("pooled", "gate"), [("mean", 0.25), ("off", 0.0)])
def test_layers_without_places_take_the_average_or_nothing(unet, run, pooled, gate):
    path = "time_embedding.linear_2"
    expert = new_expert(unet, keep=lambda p: p == path)
    mask = torch.zeros(1, *SIZE)
    mask[:, :6, :5] = 1
    gates = Gates({"sketch": mask}, pooled=pooled)
    seen = at_layer(unet, path, run, ExpertStack(unet, [expert]), gates)
    close(seen["out"], merged(unet, expert, strengths=[gate]).get_submodule(path)(seen["args"][0]))


@pytest.mark.parametrize("scalar", [False, True])
def test_cross_attention_blends_separate_passes(unet, run, scalar):
    """At that layer: base where no mask is, each expert's own pass in its region, numbers in all passes."""
    paths = {f"{CROSS}.{name}" for name in ATTENTION}
    one, two, three = (new_expert(unet, n, lambda p: p in paths, seed=s) for n, s in (("a", 1), ("b", 2), ("c", 3)))
    masks = mask_of(2, *SIZE) * 0.5, mask_of(1, *SIZE, seed=4) * 0.5
    gates = Gates({"a": masks[0], "b": RegionGate(masks[1], 1.5)} | ({"c": 0.5} if scalar else {}))
    seen = at_layer(unet, CROSS, run, ExpertStack(unet, [one, two, three]), gates)
    everywhere = [three] * scalar
    numbers = [0.5] * scalar

    def separately(*experts, strengths):
        module = merged(unet, *experts, strengths=strengths).get_submodule(CROSS)
        return module(*seen["args"], **seen["kwargs"])

    first, second = (mask.flatten(1)[..., None] for mask in masks)
    expected = (1 - first - second) * separately(*everywhere, strengths=numbers)
    expected = expected + first * separately(one, *everywhere, strengths=[1.0, *numbers])
    expected = expected + second * separately(two, *everywhere, strengths=[1.5, *numbers])
    close(seen["out"], expected)


def test_cross_attention_is_bit_equal_where_no_mask_is(unet, run):
    paths = {f"{CROSS}.{name}" for name in ATTENTION}
    mask = torch.zeros(1, *SIZE)
    mask[:, :5] = 1
    stack = ExpertStack(unet, [new_expert(unet, keep=lambda p: p in paths)])
    seen = at_layer(unet, CROSS, run, stack, Gates({"sketch": mask}))
    base = unet.get_submodule(CROSS)(*seen["args"], **seen["kwargs"])
    changed = (seen["out"] != base).any(-1).reshape(2, *SIZE)
    assert torch.equal(changed, mask.bool().expand(2, -1, -1))


def test_numbers_and_samples_need_one_pass_regions_one_more_each(unet, run):
    stack = ExpertStack(unet, [new_expert(unet, name, seed=s) for name, s in (("a", 1), ("b", 2), ("c", 3))])
    calls = []
    handle = unet.get_submodule(f"{CROSS}.to_q").register_forward_hook(lambda *a: calls.append(1))
    with stack:
        for gates, passes in [
            ({"a": 1.0, "b": torch.tensor([1.0, 0.2])}, 1),
            ({"a": mask_of(1, 4, 4), "b": 0.5}, 2),
            ({"a": mask_of(1, 4, 4), "b": mask_of(1, 4, 4), "c": torch.zeros(1, 4, 4)}, 3),
        ]:
            calls.clear()
            with stack.using(Gates(gates)):
                run()
            assert len(calls) == passes
    handle.remove()


def test_overlapping_masks_share_their_places(unet, run):
    paths = {f"{CROSS}.to_out.0"}
    stack = ExpertStack(unet, [new_expert(unet, n, lambda p: p in paths, seed=s) for n, s in (("a", 1), ("b", 2))])
    full, half = torch.ones(1, *SIZE), torch.full((1, *SIZE), 0.5)
    twice = at_layer(unet, CROSS, run, stack, Gates({"a": full, "b": full}))["out"]
    close(twice, at_layer(unet, CROSS, run, stack, Gates({"a": half, "b": half}))["out"])


def test_a_replaced_cross_attention_is_an_error_with_a_mask(unet, expert):
    stack = ExpertStack(unet, [expert])
    with stack, stack.using(Gates({"sketch": mask_of(1, 4, 4)})), pytest.raises(RegionStyleError, match="attn2.to_k"):
        unet.get_submodule(f"{CROSS}.to_k")(torch.zeros(1, 7, 24))


@pytest.mark.parametrize("size", [(7, 9), (16, 8), (5, 5)], ids=str)
def test_masks_of_any_size_and_odd_latents_fit_every_layer(unet, expert, size):
    """A mask of ones is the merged network, and any other mask is between it and the base."""
    stack, network = ExpertStack(unet, [expert]), merged(unet, expert)
    x, text = torch.rand(2, 4, *size), torch.rand(2, 7, 24)
    with torch.no_grad():
        base, whole = (net(x, 1, encoder_hidden_states=text).sample for net in (unet, network))
        for mask in (mask_of(37, 53), mask_of(2, *size), mask_of(1, 2, 3)):
            with stack, stack.using(Gates({"sketch": torch.ones_like(mask)})):
                close(unet(x, 1, encoder_hidden_states=text).sample, whole)
            with stack, stack.using(Gates({"sketch": mask})):
                part = unet(x, 1, encoder_hidden_states=text).sample
            assert min((part - base).abs().max(), (part - whole).abs().max()) > 0.05 * (whole - base).abs().max()
