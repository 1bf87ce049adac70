"""Experts on a U-Net: oracles are the merged weight, PEFT, and passes run separately."""

import copy

import pytest
import torch
import torch.nn.functional as F

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate, token_grid
from regionstyle.nodes.engine.adapters.stack import ExpertStack, ExpertWeights
from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.lora.expert import Expert, LoraLayer

SIZE = (12, 10)  # odd grids on the way down: 12x10, 6x5
CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def new_unet(seed=0):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=24, attention_head_dim=4, norm_num_groups=32,
    ).eval().requires_grad_(False)  # fmt: skip


def new_expert(unet, name="sketch", keep=lambda path: True, rank=3, seed=1, scale=0.5):
    """An update of every Linear and Conv2d that `keep` lets through."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator) * 0.3 / shape[1] ** 0.5

    layers = {}
    for path, module in unet.named_modules():
        if not keep(path) or not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            continue
        weight = module.weight
        up = (weight.shape[0], rank, *[1] * (weight.ndim - 2))
        layers[path] = LoraLayer(random(rank, *weight.shape[1:]), random(*up), scale)
    return Expert(name, layers)


def merged(unet, *experts, strengths=None):
    """A copy with weight + strength * scale * up @ down in every layer."""
    unet = copy.deepcopy(unet)
    for expert, strength in zip(experts, strengths or [1.0] * len(experts), strict=True):
        for path, layer in expert.layers.items():
            weight = unet.get_submodule(path).weight
            update = (layer.up.flatten(1) @ layer.down.flatten(1)).reshape(weight.shape)
            weight.data += strength * layer.scale * update
    return unet


def kinds_of_layer(path):
    """One of each kind: time embedding, stem, resnet, shortcut, both attentions, feed-forward, resampling."""
    return path.startswith(("time_embedding", "conv_in", "conv_out", "down_blocks.0", "up_blocks.0"))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


@pytest.fixture(scope="module")
def unet():
    return new_unet()


@pytest.fixture(scope="module")
def expert(unet):
    return new_expert(unet)


@pytest.fixture
def run(unet):
    """`run(network=unet, batch=2)`: the output for fixed inputs, different in each row."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 4, *SIZE, generator=generator)
    text = torch.randn(4, 7, 24, generator=generator)

    def call(network=unet, rows=slice(0, 2)):
        with torch.no_grad():
            return network(x[rows], 300, encoder_hidden_states=text[rows]).sample

    return call


def forwards(unet):
    return {name: module.__dict__.get("forward") for name, module in unet.named_modules()}


# --- off, on, and back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gate", [0, 0.0, torch.zeros(2), torch.zeros(1, 12, 10), RegionGate(torch.ones(1, 4, 4), 0.0), None]
)
def test_gate_zero_is_the_base_bit_for_bit(unet, expert, run, gate):
    base = run()
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({} if gate is None else {"sketch": gate}))
        assert torch.equal(run(), base)


def test_gate_one_is_the_merged_network(unet, expert, run):
    assert (run(merged(unet, expert)) - run()).abs().max() > 0.1
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": 1.0}))
        close(run(), run(merged(unet, expert)))


def test_gate_one_is_peft(unet, expert, run):
    from peft import LoraConfig, inject_adapter_in_model

    other = copy.deepcopy(unet)
    config = LoraConfig(r=3, lora_alpha=1.5, target_modules=list(expert.layers))
    inject_adapter_in_model(config, other)
    for path, layer in expert.layers.items():
        wrapped = other.get_submodule(path)
        wrapped.lora_A["default"].weight.data.copy_(layer.down)
        wrapped.lora_B["default"].weight.data.copy_(layer.up)
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": 1.0}))
        close(run(), run(other))


def test_a_mask_of_ones_is_the_merged_network(unet, expert, run):
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": torch.ones(1, 24, 20)}))
        close(run(), run(merged(unet, expert)))


def test_numbers_and_several_experts_of_unequal_rank_add_up(unet, expert, run):
    other = new_expert(unet, "oil", kinds_of_layer, rank=5, seed=9)
    with ExpertStack(unet, [expert, other]) as stack:
        stack.set(Gates({"sketch": 0.4, "oil": -1.5}))
        close(run(), run(merged(unet, expert, other, strengths=[0.4, -1.5])))


def test_per_sample_gates_equal_single_runs(unet, expert, run):
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": torch.tensor([0.0, 0.7])}))
        both = run()
    assert torch.equal(both[0], run()[0])
    close(both[1], run(merged(unet, expert, strengths=[0.7]))[1])


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("values", [[0.0, 0.7, 0.7], [0.0, 0.7, 0.2], [0.5, 0.0, 0.5]])
def test_rows_without_an_expert_are_the_base_bit_for_bit(unet, expert, values, grad):
    """Beside rows that have one, and whether or not rows may be changed in place; two experts in rows of their own."""
    other = new_expert(unet, "ink", rank=2, seed=8)
    gates = {"sketch": torch.tensor(values), "ink": torch.tensor([0.0, 0.0, 0.9])}
    x, text = torch.randn(3, 4, *SIZE), torch.randn(3, 7, 24)

    def seen(network, rows=slice(0, 3)):
        return network(x[rows], 300, encoder_hidden_states=text[rows]).sample

    with torch.set_grad_enabled(grad):
        base = seen(unet)
        with ExpertStack(unet, [expert, other]) as stack, stack.using(Gates(gates)):
            made = seen(unet)
        for row in range(3):
            strengths = [float(gate[row]) for gate in gates.values()]
            if not any(strengths):
                assert torch.equal(made[row], base[row])
            alone = merged(unet, expert, other, strengths=strengths)
            close(made[row : row + 1], seen(alone, slice(row, row + 1)))


def test_tensors_repeat_over_blocks_of_conditions(unet, expert, run):
    gate = torch.stack([torch.zeros(12, 10), torch.ones(12, 10)])
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": gate}))
        four = run(rows=slice(0, 4))
    base, full = run(rows=slice(0, 4)), run(merged(unet, expert), rows=slice(0, 4))
    close(four, torch.stack([base[0], full[1], base[2], full[3]]))


def test_the_strength_of_a_region_acts_inside_the_expert(unet, expert, run):
    with ExpertStack(unet, [expert]) as stack:
        stack.set(Gates({"sketch": RegionGate(torch.ones(1, 12, 10), 1.7)}))
        close(run(), run(merged(unet, expert, strengths=[1.7])))


# --- what a mask means, layer by layer ---------------------------------------------------------------------------


def mask_of(*shape, seed=3):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def at_layer(unet, path, run, stack=None, gates=None):
    """Input and output of one layer in a run, with a stack attached or not."""
    seen = {}
    handle = unet.get_submodule(path).register_forward_hook(
        lambda module, args, kwargs, out: seen.update(args=args, kwargs=kwargs, out=out), with_kwargs=True
    )
    try:
        if stack is None:
            run()
        else:
            with stack, stack.using(gates):
                run()
    finally:
        handle.remove()
    return seen


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


def test_masks_of_any_size_and_odd_latents_fit_every_layer(unet, expert):
    stack = ExpertStack(unet, [expert])
    for height, width in [(7, 9), (16, 8), (5, 5)]:
        for mask in (mask_of(37, 53), mask_of(2, height, width), mask_of(1, 2, 3)):
            with stack, stack.using(Gates({"sketch": mask})), torch.no_grad():
                x = torch.zeros(2, 4, height, width)
                assert unet(x, 1, encoder_hidden_states=torch.zeros(2, 7, 24)).sample.shape == x.shape


# --- attaching ---------------------------------------------------------------------------------------------------


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


# --- gradients and parameters ------------------------------------------------------------------------------------


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
    with torch.inference_mode():
        mask, expert = mask_of(1, *SIZE), new_expert(unet)
        stack = ExpertStack(unet, [expert]).attach()
        stack.set(Gates({"sketch": mask}))
        unet(torch.zeros(1, 4, *SIZE), 1, encoder_hidden_states=torch.zeros(1, 7, 24))
    x = torch.randn(1, 4, *SIZE, requires_grad=True)
    unet(x, 1, encoder_hidden_states=torch.zeros(1, 7, 24)).sample.sum().backward()
    assert x.grad.abs().sum() > 0
    stack.detach()


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


# --- misuse ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (torch.full((1, 4, 4), 1.5), "0..1"),
        (torch.full((1, 4, 4), float("nan")), "0..1"),
        (torch.zeros(1, 1, 4, 4), r"\[B,H,W\]"),
        (float("nan"), "finite"),
    ],
)
def test_wrong_gates_say_what_is_accepted(unet, expert, gate, message):
    stack = ExpertStack(unet, [expert])
    with pytest.raises(RegionStyleError, match=message):
        stack.set(Gates({"sketch": gate}))


def test_a_mask_batch_that_does_not_fit_is_an_error(unet, expert, run):
    stack = ExpertStack(unet, [expert])
    with stack, stack.using(Gates({"sketch": mask_of(3, 4, 4)})), pytest.raises(RegionStyleError, match="3 entries"):
        run()


def test_unknown_names_layers_sizes_and_networks_are_errors(unet, expert):
    stack = ExpertStack(unet, [expert])
    with pytest.raises(RegionStyleError, match="oil"):
        stack.set(Gates({"oil": 1}))
    with pytest.raises(RegionStyleError, match="twice"):
        ExpertStack(unet, [expert, expert])
    missing = Expert("x", {"down_blocks.7.conv": LoraLayer(torch.zeros(1, 4), torch.zeros(4, 1))})
    with pytest.raises(RegionStyleError, match=r"down_blocks\.7\.conv"):
        ExpertStack(unet, [missing])
    size = Expert("x", {"conv_in": LoraLayer(torch.zeros(1, 9, 3, 3), torch.zeros(4, 1, 1, 1))})
    with pytest.raises(RegionStyleError, match="conv_in"):
        ExpertStack(unet, [size])
    with pytest.raises(RegionStyleError, match="UNet2DConditionModel"):
        ExpertStack(torch.nn.Linear(3, 3), [expert])


def test_token_grids():
    assert token_grid((12, 10), 120) == (12, 10)
    assert token_grid((13, 9), 7 * 5) == (7, 5)
    with pytest.raises(RegionStyleError, match="77"):
        token_grid((12, 10), 77)
    with pytest.raises(RegionStyleError, match="unknown"):
        token_grid(None, 1)
