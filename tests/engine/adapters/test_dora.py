"""DoRA experts on diffusers' U-Net, beside weights merged by the definition, and beside PEFT's own layers."""

import copy
import random
from dataclasses import replace

import pytest
import torch
from adapter_networks import CROSS, SIZE, at_layer, close, forwards, mask_of, new_expert
from torch import nn

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import Expert
from regionstyle.nodes.engine.lora.load import load_expert
from regionstyle.nodes.engine.lora.magnitude import Magnitude

KINDS = {
    "rows of the weight": {"by_input": False, "merged": False},
    "rows of the sum": {"by_input": False, "merged": True},
    "columns of the sum": {"by_input": True, "merged": True},
}


def lengths(weight, by_input):
    """Frobenius norms of a weight's rows or columns, in a shape that broadcasts over it."""
    own = 1 if by_input else 0
    return torch.linalg.vector_norm(weight, dim=[dim for dim in range(weight.ndim) if dim != own], keepdim=True)


def dora(unet, kind, keep=lambda path: True, name="sketch", seed=1):
    """An expert with magnitudes around the lengths of the weights."""
    plain, layers = new_expert(unet, name, keep, seed=seed), {}
    generator = torch.Generator().manual_seed(seed)
    for path, layer in plain.layers.items():
        near = lengths(unet.get_submodule(path).weight, kind["by_input"]).flatten()
        values = near * (0.7 + 0.6 * torch.rand(near.shape, generator=generator))
        layers[path] = replace(layer, magnitude=Magnitude(values, **kind))
    return Expert(name, layers)


def merged(unet, expert, strength=1.0):
    """A copy with strength times the difference of the weights, as ComfyUI's `weight_decompose` merges it."""
    unet = copy.deepcopy(unet)
    for path, layer in expert.layers.items():
        weight = unet.get_submodule(path).weight
        changed = weight + layer.scale * (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(weight.shape)
        by_input, measured = layer.magnitude.by_input, changed if layer.magnitude.merged else weight
        length = lengths(measured, by_input)
        changed = changed * layer.magnitude.values.reshape(length.shape) / length
        weight.data = weight + strength * (changed - weight)
    return unet


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 0.6, -0.5])
def test_a_number_as_gate_is_the_merged_network(unet, run, kind, strength):
    expert = dora(unet, KINDS[kind])
    base, wanted = run(), run(merged(unet, expert, strength))
    assert (wanted - base).abs().max() > 0.05 * base.abs().max()
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": strength}))
        close(run(), wanted, 5e-5)
        stack.set(Gates({"sketch": torch.tensor([strength, 0.0])}))
        both = run()
    close(both[:1], wanted[:1], 5e-5)
    assert torch.equal(both[1], base[1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["conv_in", "down_blocks.0.downsamplers.0.conv", CROSS.replace("attn2", "ff.net.2")])
def test_a_mask_blends_the_layer_and_the_merged_layer(unet, run, kind, path):
    expert, mask = dora(unet, KINDS[kind], lambda p: p == path), mask_of(2, *SIZE)
    seen = at_layer(unet, path, run, ExpertStack(unet, [expert]), Gates({"sketch": RegionGate(mask, 0.8)}))
    (x,) = seen["args"]
    base, changed = unet.get_submodule(path)(x), merged(unet, expert).get_submodule(path)(x)
    if x.ndim == 4:
        gate = nn.functional.interpolate(mask[:, None], size=base.shape[-2:], mode="area")
    else:
        gate = mask.flatten(1)[..., None]
    close(seen["out"], base + 0.8 * gate * (changed - base))


def test_in_cross_attention_each_region_has_its_own_pass(unet, run):
    expert = dora(unet, KINDS["rows of the sum"], lambda p: p.startswith(CROSS))
    mask = mask_of(1, *SIZE)
    seen = at_layer(unet, CROSS, run, ExpertStack(unet, [expert]), Gates({"sketch": mask}))
    base, changed = (net.get_submodule(CROSS)(*seen["args"], **seen["kwargs"]) for net in (unet, merged(unet, expert)))
    close(seen["out"], base + mask.flatten(1)[..., None] * (changed - base))


def test_beside_a_plain_expert_each_is_measured_against_the_network(unet, run):
    path = "down_blocks.0.resnets.0.conv1"
    one, two = dora(unet, KINDS["rows of the weight"], lambda p: p == path), new_expert(unet, "b", lambda p: p == path)
    seen = at_layer(unet, path, run, ExpertStack(unet, [two, one]), Gates({"sketch": 0.5, "b": 0.7}))
    (x,), layer = seen["args"], two.layers[path]
    base, changed = unet.get_submodule(path)(x), merged(unet, one).get_submodule(path)(x)
    update = (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(unet.get_submodule(path).weight.shape) * layer.scale
    close(seen["out"], base + 0.5 * (changed - base) + 0.7 * nn.functional.conv2d(x, update, padding=1))


def test_detaching_restores_the_network_bit_for_bit_and_forgets_its_lengths(unet, run):
    before, weights, own = run(), copy.deepcopy(unet.state_dict()), forwards(unet)
    stack = ExpertStack(unet, [dora(unet, KINDS["columns of the sum"])])
    with stack:
        stack.set(Gates({"sketch": 1.0}))
        changed = run()
        assert torch.equal(run(), changed)
        assert len(stack._gated._lengths) == len(stack.expert("sketch").layers)
    assert not stack._gated._lengths
    assert forwards(unet) == own
    assert torch.equal(run(), before)
    assert all(torch.equal(weights[key], value) for key, value in unet.state_dict().items())


def test_lengths_follow_weights_that_change_meanwhile(run):
    from adapter_networks import new_unet

    unet = new_unet()
    expert = dora(unet, KINDS["rows of the weight"])
    with ExpertStack(unet, [expert]) as stack, torch.no_grad():
        stack.set(Gates({"sketch": 1.0}))
        run(unet)
        unet.conv_in.weight *= 2
        unet.conv_out.weight = nn.Parameter(unet.conv_out.weight * 3, requires_grad=False)
        found = run(unet)
    close(found, run(merged(unet, expert)), 5e-5)


def test_lengths_are_not_those_of_an_earlier_weight_at_the_same_address(run):
    """Weights are loaded and unloaded while an expert is at work, and Python gives addresses again."""
    from adapter_networks import new_unet

    unet = new_unet()
    other = unet.conv_out.weight.detach() * 3
    with ExpertStack(unet, [dora(unet, KINDS["rows of the weight"], lambda path: path == "conv_out")]) as stack:
        stack.set(Gates({"sketch": 1.0}))
        run(unet)
        address, version = id(unet.conv_out.weight), unet.conv_out.weight._version
        while other._version < version:  # as if it was loaded the same way
            other.mul_(1)
        unet.conv_out._parameters["weight"] = None
        weights = [nn.Parameter(other, requires_grad=False)]
        while id(weights[-1]) != address and len(weights) < 1000:
            weights.append(nn.Parameter(other, requires_grad=False))
        unet.conv_out.weight = weights[-1]
        if id(weights[-1]) != address:
            pytest.skip("no weight got the address of the earlier one")
        found = run(unet)
        stack.forget_lengths()
        assert torch.equal(found, run(unet))


def test_gradients_reach_the_update_and_its_magnitudes(unet):
    path = "conv_in"
    expert = dora(unet, KINDS["rows of the weight"], lambda p: p == path)
    layer, module, x = expert.layers[path], unet.conv_in, mask_of(1, 4, *SIZE)
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": 1.0}))
        for parameter in stack.parameters():
            parameter.requires_grad_()
        found = torch.autograd.grad(module(x).square().sum(), list(stack.parameters()))
    down, up, values = (t.clone().requires_grad_() for t in (layer.down, layer.up, layer.magnitude.values))
    weight = module.weight + layer.scale * (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
    weight = weight * (values / lengths(module.weight, False).flatten())[:, None, None, None]
    loss = nn.functional.conv2d(x, weight, module.bias, padding=1).square().sum()
    by_shape = {g.shape: g for g in torch.autograd.grad(loss, [down, up, values])}
    for gradient in found:
        close(gradient, by_shape[gradient.shape])


@pytest.mark.parametrize("conv", [False, True])
def test_as_peft_computes_it(conv, unet, run, tmp_path):
    """PEFT's own DoRA layers, trained a little, saved, and read again."""
    from peft import LoraConfig, get_peft_model

    names = ["conv1", "conv_in"] if conv else ["to_q", "to_k", "to_v", "net.2"]
    torch.manual_seed(random.Random(conv).randrange(100))
    model = get_peft_model(copy.deepcopy(unet), LoraConfig(r=3, lora_alpha=6, target_modules=names, use_dora=True))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
            if "magnitude" in name:
                parameter.mul_(0.7 + 0.6 * torch.rand_like(parameter))
    model.save_pretrained(tmp_path)
    wanted, expert = run(model.base_model.model.eval()), load_expert(tmp_path, name="x")
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"x": 1.0}))
        close(run(), wanted, 5e-5)
    assert (wanted - run()).abs().max() > 0.05 * wanted.abs().max()


def test_magnitudes_for_another_layer_are_refused(unet):
    expert = dora(unet, KINDS["columns of the sum"], lambda p: p == "conv_in")
    wrong = replace(expert.layers["conv_in"], magnitude=Magnitude(torch.ones(9), by_input=True))
    with pytest.raises(RegionStyleError, match=r"conv_in .*DoRA magnitudes \[9\] by input.*4 inputs"):
        ExpertStack(unet, [replace(expert, layers={"conv_in": wrong})])


def test_a_weight_that_is_elsewhere_is_one_clear_error(unet):
    layer = copy.deepcopy(unet)
    stack = ExpertStack(layer, [dora(layer, KINDS["rows of the weight"], lambda p: p == "conv_in")])
    weight = layer.conv_in.weight
    with stack:
        stack.set(Gates({"sketch": 1.0}))
        forward = layer.conv_in.forward
        forward.original = lambda x: nn.functional.conv2d(x, weight, padding=1)  # fetched by a hook, as accelerate's
        layer.conv_in.weight = nn.Parameter(weight.to("meta"), requires_grad=False)
        with pytest.raises(RegionStyleError, match="DoRA: got a Conv2d whose weight is on meta"):
            layer.conv_in(torch.rand(1, 4, 8, 8))
