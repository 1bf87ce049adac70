"""Gradient checkpointing of blocks that write in place: gradients bit for bit, outputs on the side, and less kept."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn

from regionstyle.nodes.engine.adapters.checkpointing import checkpointed
from regionstyle.nodes.engine.errors import RegionStyleError


class Block(nn.Module):
    """Writes into what it is given, and into what a layer has saved, as FLUX does; sees a table of options."""

    def __init__(self, seen):
        super().__init__()
        self.norm, self.linear, self.seen = nn.LayerNorm(8), nn.Linear(8, 8), seen
        self.calls = 0

    def forward(self, x, words, options):
        self.calls += 1
        y = self.norm(x)
        side = self.linear(y).sigmoid()
        self.seen.append(side.mean())
        x += side * words * options["factor"]
        y = x.tanh()
        y *= 2
        return y + side


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.seen = []
        self.blocks = nn.ModuleList(Block(self.seen) for _ in range(3))

    def forward(self, x, words):
        options = {}
        for number, block in enumerate(self.blocks):
            options["factor"] = number + 1.0  # one table for all, changed between them
            x = block(x.clone(), words, options)
        return x


def gradients(network, block):
    x, words = torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.full((4, 8), 0.3)
    x.requires_grad_(True)
    with torch.autograd.graph.allow_mutation_on_saved_tensors(), block:
        network.seen.clear()
        out = network(x, words)
        loss = out.square().sum() + torch.stack(network.seen).sum()
        return loss, torch.autograd.grad(loss, [x, *network.parameters()])


def nothing():
    return nullcontext


def test_gradients_are_the_same_bit_for_bit_and_blocks_run_twice():
    network = Network()
    loss, plain = gradients(network, nullcontext())
    assert [block.calls for block in network.blocks] == [1, 1, 1]
    again, twice = gradients(network, checkpointed(network.blocks, nothing))
    assert [block.calls for block in network.blocks] == [3, 3, 3]
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(plain, twice, strict=True))
    assert not any("forward" in block.__dict__ for block in network.blocks)


def test_without_gradients_nothing_is_done_twice():
    network = Network()
    with torch.no_grad(), checkpointed(network.blocks, nothing):
        network(torch.zeros(1, 8), torch.ones(1, 8))
    assert [block.calls for block in network.blocks] == [1, 1, 1]


def test_less_is_kept():
    network, kept = Network(), {}
    for name, block in (("plain", nullcontext()), ("checkpointed", checkpointed(network.blocks, nothing))):
        with torch.autograd.graph.allow_mutation_on_saved_tensors(), block:
            saved = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t):
                network(torch.randn(4, 8, requires_grad=True), torch.ones(4, 8))
            kept[name] = len(saved)
    assert kept["checkpointed"] < kept["plain"] / 3


def test_the_state_of_the_first_run_is_put_back():
    network, state, used = Network(), [0], []

    def remember():
        state[0] += 1
        then = state[0]

        @contextmanager
        def again():
            used.append(then)
            yield

        return again

    gradients(network, checkpointed(network.blocks, remember))
    assert used == [3, 2, 1]


def test_a_block_that_does_something_else_the_second_time_is_refused():
    network = Network()

    def changing(module, args, kwargs):
        if module.calls:
            return (*args[:2], {"factor": torch.tensor(2.0, requires_grad=True)}), kwargs
        return None

    network.blocks[1].register_forward_pre_hook(changing, with_kwargs=True)
    with pytest.raises(RegionStyleError, match="checkpointing: got"):
        gradients(network, checkpointed(network.blocks, nothing))
