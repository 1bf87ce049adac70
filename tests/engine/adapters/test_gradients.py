"""Gradients of experts, gates and latents, and what a stack owns."""

import pytest
import torch
from adapter_networks import CROSS, SIZE, close, mask_of, merged, new_expert, new_unet

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.adapters.weights import ExpertWeights
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer


@pytest.mark.parametrize("mask", [False, True])
def test_gradients_reach_the_experts_and_the_latent(mask):
    unet = new_unet().double()
    paths = {f"{CROSS}.to_k", "conv_in", f"{CROSS}.to_q".replace("attn2", "attn1")}
    stack = ExpertStack(unet, [new_expert(unet, keep=lambda p: p in paths)])
    stack.weights.double()
    parameters = [p.requires_grad_() for p in stack.parameters("sketch")]
    x = torch.randn(1, 4, 4, 4, dtype=torch.double).requires_grad_()
    text = torch.randn(1, 3, 24, dtype=torch.double)
    gates = Gates({"sketch": mask_of(1, 4, 4).double() if mask else 0.7})

    def loss():
        with stack, stack.using(gates):
            return unet(x, 10, encoder_hidden_states=text).sample.square().mean()

    gradients = torch.autograd.grad(loss(), [x, *parameters])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    for tensor, gradient in zip([x, *parameters], gradients, strict=True):
        step = 1e-6 * torch.sign(gradient)
        with torch.no_grad():
            tensor += step
            high = loss()
            tensor -= 2 * step
            low = loss()
            tensor += step
        torch.testing.assert_close((high - low) / 2e-6, gradient.abs().sum(), rtol=1e-5, atol=0)


def test_a_mask_is_learnt_over_several_passes_with_the_same_gates(unet, expert):
    """Each pass has a graph of its own, and sees the mask as it is by then."""
    x, text, mask = torch.randn(1, 4, *SIZE), torch.randn(1, 7, 24), torch.full((1, *SIZE), 0.8, requires_grad=True)

    def gradient():
        return torch.autograd.grad(unet(x, 300, encoder_hidden_states=text).sample.square().sum(), mask)[0]

    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": mask}))
        first = gradient()
        with torch.no_grad():
            mask.mul_(0.25)
        second = gradient()
        stack.set(Gates({"sketch": mask}))
        close(second, gradient())
    assert float((first - second).abs().max()) > 1e-3 * float(first.abs().max())


def test_gates_and_experts_made_in_inference_mode_allow_gradients(unet):
    x = torch.randn(1, 4, *SIZE)
    gradients = []
    for inference in (True, False):
        with torch.inference_mode(inference):
            mask, expert = mask_of(1, *SIZE), new_expert(unet)
            stack = ExpertStack(unet, [expert]).attach()
            stack.set(Gates({"sketch": mask}))
            unet(torch.zeros(1, 4, *SIZE), 1, encoder_hidden_states=torch.zeros(1, 7, 24))
        leaf = x.clone().requires_grad_()
        unet(leaf, 1, encoder_hidden_states=torch.zeros(1, 7, 24)).sample.sum().backward()
        stack.detach()
        gradients.append(leaf.grad)
    assert gradients[1].abs().max() > 1e-3
    close(*gradients)


def test_the_stack_owns_copies_and_hands_out_what_was_trained(unet, expert):
    stack = ExpertStack(unet, [expert])
    first = next(iter(expert.layers))
    for parameter in stack.parameters():
        parameter.data.mul_(2)
    trained = stack.expert("sketch").layers[first]
    assert not torch.equal(expert.layers[first].up, trained.up)
    assert torch.equal(trained.up, expert.layers[first].up * 2)
    assert torch.equal(trained.down, expert.layers[first].down * 2)
    shared = ExpertWeights(expert)
    assert next(ExpertStack(unet, [shared]).parameters()) is next(shared.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("path", ["conv_in", f"{CROSS}.to_q", "time_embedding.linear_1"])
def test_half_precision_layers_stay_half_and_add_the_update_of_full_precision(dtype, path):
    unet = new_unet()
    expert = new_expert(unet, keep=lambda p: p == path)
    module = unet.get_submodule(path)
    x = torch.randn({"conv_in": (2, 4, 4, 4)}.get(path, (2, *[5] * ("attn2" in path), 64)))
    full = merged(unet, expert, strengths=[0.5]).get_submodule(path)(x)
    module.to(dtype)
    with ExpertStack(unet, [expert]) as stack, stack.using(Gates({"sketch": 0.5})):
        out = module(x.to(dtype))
    assert out.dtype == dtype
    close(out.float(), full, 0.03)


def test_fused_layers_are_addressed_by_rows(unet):
    path = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
    layer = LoraLayer(torch.randn(2, 64), torch.randn(100, 2), 1.0, slice(50, 150))
    module, x = unet.get_submodule(path), torch.randn(1, 120, 64)
    base = module(x)
    with ExpertStack(unet, [Expert("rows", {path: layer})]) as stack, stack.using(Gates({"rows": 1})):
        added = module(x) - base
    close(added[..., 50:150], x @ layer.down.T @ layer.up.T, 1e-4)
    assert not added[..., :50].any()
    assert not added[..., 150:].any()
