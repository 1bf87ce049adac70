"""Out of memory: halved and tried again, then one clear error."""

import pytest
import torch

from regionstyle.nodes.engine.errors import Cancelled, RegionStyleError
from regionstyle.nodes.engine.host.base import LocalHost
from regionstyle.nodes.engine.host.memory import batched, is_out_of_memory, with_halving

OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)


class Small(torch.nn.Module):
    """A network on a device with room for `room` images."""

    def __init__(self, room):
        super().__init__()
        self.room, self.tried = room, []

    def forward(self, x, scale):
        self.tried.append(len(x))
        if len(x) > self.room:
            raise OUT_OF_MEMORY("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x * scale[:, None] + 1


@pytest.fixture
def host():
    host = LocalHost("cpu")
    host.emptied = 0
    host.empty_cache = lambda: setattr(host, "emptied", host.emptied + 1)
    return host


@pytest.mark.parametrize(
    ("room", "tried"), [(7, [7]), (6, [7, 3, 3, 1]), (2, [7, 3, 1, 1, 1, 1, 1, 1, 1]), (1, [7, 3] + [1] * 7)]
)
def test_a_batch_is_halved_until_it_fits(host, room, tried):
    network, x, scale = Small(room), torch.randn(7, 3), torch.randn(7)
    result = batched(network, x, scale, host=host, name="images")
    assert torch.equal(result, x * scale[:, None] + 1)
    assert network.tried == tried
    assert host.emptied == sum(a > b and a > room for a, b in zip(tried, tried[1:], strict=False))


def test_gradients_pass_through_the_parts(host):
    x, scale = torch.randn(5, 3, requires_grad=True), torch.randn(5)
    batched(Small(2), x, scale, host=host, name="images").sum().backward()
    assert torch.equal(x.grad, scale[:, None].expand(5, 3))


def test_no_room_for_one_image_is_one_clear_error(host):
    with pytest.raises(RegionStyleError, match="images: got no memory even for a size of 1.*smaller picture") as found:
        batched(Small(0), torch.randn(4, 3), torch.randn(4), host=host, name="images")
    assert "Tried to allocate" in str(found.value.__cause__)


@pytest.mark.parametrize(("start", "room", "sides"), [(96, 50, [96, 48]), (100, 20, [100, 48, 24, 16]), (16, 16, [16])])
def test_tiles_are_halved_to_multiples(host, start, room, sides):
    tried = []

    def work(side):
        tried.append(side)
        if side > room:
            raise OUT_OF_MEMORY("no room")
        return side

    assert with_halving(work, start, host=host, name="tile", smallest=16, multiple=8) == sides[-1]
    assert tried == sides


def test_other_errors_and_cancel_pass(host):
    def broken(size):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        with_halving(broken, 4, host=host, name="batch")
    calls = []
    cancelled = LocalHost("cpu", cancelled=lambda: len(calls) > 1)

    def call(x):
        calls.append(len(x))
        if len(x) > 1:
            raise OUT_OF_MEMORY("no room")
        return x

    with pytest.raises(Cancelled):
        batched(call, torch.randn(4, 2), host=cancelled, name="images")
    assert calls == [4, 2]


def test_the_failed_try_keeps_no_tensors(host):
    """The exception's traceback would hold the first try's memory while the second one asks for its own."""
    import weakref

    seen = []

    def work(size):
        kept = torch.zeros(size, 10)
        if seen and seen[0]() is not None:
            return "the first try's tensor is still there"
        seen.append(weakref.ref(kept))
        if size > 1:
            raise OUT_OF_MEMORY("no room")
        return "fits"

    assert with_halving(work, 2, host=host, name="batch") == "fits"


def test_what_counts_as_out_of_memory():
    for error in (OUT_OF_MEMORY("x"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                  RuntimeError("MPS backend out of memory")):  # fmt: skip
        assert is_out_of_memory(error)
    for error in (ValueError("out of memory"), RuntimeError("shape"), KeyboardInterrupt()):
        assert not is_out_of_memory(error)
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 60)
    assert is_out_of_memory(found.value)


def test_wrong_input(host):
    with pytest.raises(RegionStyleError, match="images: got \\[2, 3\\]"):
        batched(Small(1), torch.zeros(2, 1), torch.zeros(3), host=host, name="images")
    with pytest.raises(RegionStyleError, match="tile: got 8"):
        with_halving(lambda side: side, 8, host=host, name="tile", smallest=16)
