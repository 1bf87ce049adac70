"""Gradient checkpointing of blocks that write in place: gradients bit for bit, outputs on the side, and less kept."""

from contextlib import contextmanager, nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from regionstyle.nodes.engine.adapters.checkpointing import checkpointed
from regionstyle.nodes.engine.errors import RegionStyleError


class Block(nn.Module):
    """Writes into what it is given, and into what a layer has saved, as FLUX does; sees a table of options."""

    def __init__(self, seen, width=8):
        super().__init__()
        self.norm, self.linear, self.seen = nn.LayerNorm(width), nn.Linear(width, width), seen
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
    def __init__(self, count=3, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.seen = []
        self.blocks = nn.ModuleList(Block(self.seen, width) for _ in range(count))

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


class Memory(TorchDispatchMode):
    """Bytes of all tensors that were made inside and are still there, and the most at once; not those of `known`."""

    def __init__(self, known):
        super().__init__()
        self.sizes, self.most = WeakIdKeyDictionary(), 0
        self.known = [one.untyped_storage() for one in known]

    @property
    def held(self):
        return sum(self.sizes.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in made if isinstance(made, (list, tuple)) else [made]:
            if isinstance(one, torch.Tensor):
                self._see(one.untyped_storage())
        self.most = max(self.most, self.held)
        return made

    def _see(self, storage):
        if not any(storage is one for one in self.known):
            self.sizes[storage] = storage.nbytes()


def memory(rows, width, block_of):
    """Bytes that eight blocks hold after the forward pass, and the most during the backward pass, weights frozen."""
    network = Network(8, width).requires_grad_(False)
    x, words = torch.randn(rows, width, requires_grad=True), torch.ones(rows, width)
    known = [x, words, *network.parameters()]
    with Memory(known) as seen, torch.autograd.graph.allow_mutation_on_saved_tensors(), block_of(network):
        loss = network(x, words).sum()
        held, seen.most = seen.held, 0
        torch.autograd.grad(loss, x)
    return held, seen.most


def test_less_is_kept():
    held, most = memory(64, 64, lambda network: nullcontext())
    less_held, less_most = memory(64, 64, lambda network: checkpointed(network.blocks, nothing))
    assert less_held < 0.5 * held
    assert less_most < most  # how much less depends on when torch lets go of its copies


def test_the_second_run_copies_no_weights():
    rows, width = 2, 256
    held, most = memory(rows, width, lambda network: checkpointed(network.blocks, nothing))
    assert most - held < 4 * width * width, "as much as one block's weights"


def test_automatic_mixed_precision_is_as_it_was():
    """On in the forward pass alone, as is usual."""
    made = []
    for wrap in (lambda network: nullcontext(), lambda network: checkpointed(network.blocks, nothing)):
        network, x = Network(), torch.randn(4, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        with torch.autograd.graph.allow_mutation_on_saved_tensors(), wrap(network):
            with torch.autocast("cpu", torch.bfloat16):
                loss = network(x, torch.full((4, 8), 0.3)).square().sum()
            made.append(torch.autograd.grad(loss, [x, *network.parameters()]))
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


class Collecting(nn.Module):
    """Writes into tensors that lie in tables, lists and tuples it is given."""

    def forward(self, x, held, *, pair):
        state, (shift, same) = held["state"][0], pair
        state.mul_(0.5).add_(0.2)
        shift.add_(state)
        return (x * state * shift * same).tanh()


def test_tensors_within_what_is_given_are_as_they_were():
    """Also one that is given twice: what is written into it by one name is read by the other."""
    made = []
    for number in range(2):
        block, x = Collecting(), torch.linspace(-1, 1, 8).requires_grad_(True)
        shift = torch.zeros(8)
        held, pair = {"state": [torch.full((8,), 0.1)]}, (shift, shift)
        wrap = checkpointed([block], nothing) if number else nullcontext()
        with torch.autograd.graph.allow_mutation_on_saved_tensors(), wrap:
            out = block(block(x, held, pair=pair), held, pair=pair)
            made.append(torch.autograd.grad(out.sum(), x)[0])
    assert made[0].abs().min() > 1e-3
    assert torch.equal(*made)


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
