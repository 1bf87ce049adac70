"""Attaching and detaching: what other wrappers, copies and errors leave behind."""

import copy

import pytest
import torch
from adapter_networks import CROSS, SIZE, close, forwards, mask_of, merged, new_expert, new_unet

from regionstyle.nodes.engine.adapters.gates import Gates
from regionstyle.nodes.engine.adapters.stack import ExpertStack
from regionstyle.nodes.engine.errors import RegionStyleError


def test_detach_restores_everything_also_after_an_error(unet, expert, run):
    before, base = forwards(unet), run()
    stack = ExpertStack(unet, [expert])
    stack.set(Gates({"sketch": mask_of(1, 4, 4)}))
    handle = unet.get_submodule(f"{CROSS}.to_v").register_forward_hook(lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError), stack:
        run()
    handle.remove()
    assert forwards(unet) == before
    assert not unet._forward_pre_hooks
    assert torch.equal(run(), base)
    stack.detach()
    assert stack.attach() is stack.attach()
    stack.detach()
    assert forwards(unet) == before


def test_an_error_while_attaching_leaves_the_network_alone(unet, expert):
    before = forwards(unet)
    stack = ExpertStack(unet, [expert])
    stack._layers[20].module = None
    with pytest.raises(AttributeError):
        stack.attach()
    assert forwards(unet) == before
    assert not stack.attached


def test_stacks_coexist_and_leave_in_any_order(unet, expert, run):
    before, base = forwards(unet), run()
    other = new_expert(unet, "oil", seed=4)
    full, left = run(merged(unet, expert, other)), [run(merged(unet, other)), run(merged(unet, expert))]
    for first_out in (0, 1):
        stacks = [ExpertStack(unet, [expert]).attach(), ExpertStack(unet, [other]).attach()]
        stacks[0].set(Gates({"sketch": 1}))
        stacks[1].set(Gates({"oil": 1}))
        close(run(), full)
        stacks[first_out].detach()
        close(run(), left[first_out])
        stacks[1 - first_out].detach()
        assert forwards(unet) == before
        assert torch.equal(run(), base)


def test_stacks_with_masks_blend_inside_each_other(unet, run):
    """Hard masks: each stack would otherwise show the other one only its own places."""
    experts = [new_expert(unet, keep=lambda path: path == f"{CROSS}.to_v", seed=seed) for seed in (1, 2)]
    first, second = torch.zeros(1, *SIZE), torch.zeros(1, *SIZE)
    first[..., :5] = second[:, :4] = 1
    seen = []
    handle = unet.get_submodule(CROSS).register_forward_hook(lambda module, args, out: seen.append(out))

    def blended(*gates):
        with ExpertStack(unet, experts[:1]) as a, ExpertStack(unet, experts[1:]) as b:
            a.set(Gates({"sketch": gates[0]}))
            b.set(Gates({"sketch": gates[1]}))
            run()
        return seen.pop()

    one, two = (mask.flatten(1)[..., None] for mask in (first, second))
    inside = two * blended(1, 1) + (1 - two) * blended(1, 0)
    outside = two * blended(0, 1) + (1 - two) * blended(0, 0)
    close(blended(first, second), one * inside + (1 - one) * outside)
    handle.remove()


def test_a_deep_copy_of_an_attached_network_is_the_plain_network(unet, expert, run):
    base = run()
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": 1}))
        other = copy.deepcopy(unet)
        assert torch.equal(run(other), base)
    other.conv_out.weight.data.zero_()
    assert torch.equal(run(other), other.conv_out.bias.reshape(1, -1, 1, 1).expand_as(base))
    assert torch.equal(run(), base)


def test_a_wrapper_put_on_top_of_ours_survives_and_can_leave_later(unet, expert, run):
    base, full = run(), run(merged(unet, expert))
    layer = unet.get_submodule("conv_in")
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": 1}))
        ours = layer.forward
        layer.forward = lambda x: ours(x) + 1
        foreign = layer.forward
    assert layer.forward is foreign
    stack.set(Gates({"sketch": 1}))
    assert torch.equal(layer(torch.ones(1, 4, 8, 8)), type(layer).forward(layer, torch.ones(1, 4, 8, 8)) + 1)
    layer.forward = ours  # the other one puts back what it had found
    with ExpertStack(unet, [expert]) as again:
        again.set(Gates({"sketch": 1}))
        close(run(), full)
    assert "forward" not in layer.__dict__
    assert torch.equal(run(), base)


def test_a_wrapper_below_ours_is_kept(unet, expert, run):
    layer = unet.get_submodule("conv_in")
    own = layer.forward
    layer.forward = lambda x: own(x) + 1
    foreign = layer.forward
    try:
        with ExpertStack(unet, [expert]):
            pass
        assert layer.forward is foreign
    finally:
        del layer.forward


@pytest.mark.parametrize("broken", [False, True])
def test_a_pass_is_forgotten_when_it_is_over(unet, expert, run, broken):
    """A layer that is called alone later must not take the last picture's size for its own."""
    layer = unet.get_submodule(CROSS.replace("attn2", "attn1.to_k"))
    with ExpertStack(unet, [expert]) as stack, stack.using(Gates({"sketch": mask_of(1, 4, 4)})):
        if broken:
            handle = unet.get_submodule("conv_out").register_forward_hook(lambda *a: 1 / 0)
            with pytest.raises(ZeroDivisionError):  # here gradients are wanted
                unet(torch.zeros(2, 4, *SIZE), 300, encoder_hidden_states=torch.zeros(2, 7, 24))
            handle.remove()
        else:
            run()
        with pytest.raises(RegionStyleError, match="outside of its network"):
            layer(torch.zeros(2, SIZE[0] * SIZE[1], layer.in_features))
    assert not unet._forward_hooks


def test_gradient_checkpointing_runs_masked_layers_again():
    unet = new_unet()
    x, text = torch.randn(1, 4, *SIZE), torch.randn(1, 7, 24)
    found = []
    for enable in (unet.disable_gradient_checkpointing, unet.enable_gradient_checkpointing):
        enable()
        unet.train()
        with ExpertStack(unet, [new_expert(unet)]) as stack, stack.using(Gates({"sketch": mask_of(1, 4, 4)})):
            latent = x.clone().requires_grad_()
            unet(latent, 1, encoder_hidden_states=text).sample.square().sum().backward()
            found.append(latent.grad)
    close(*found)
