"""Experts on and off on a U-Net: oracles are the merged weight, PEFT, and passes run separately."""

import copy

import pytest
import torch
from adapter_networks import SIZE, close, kinds_of_layer, merged, new_expert

from regionstyle.nodes.engine.adapters.gates import Gates, RegionGate
from regionstyle.nodes.engine.adapters.stack import ExpertStack


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
