"""Out of memory: the batch or tile is halved and tried again, then a clear error. For every method that can split."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from ..errors import RegionStyleError, wrong_input

if TYPE_CHECKING:
    from .base import Host

Result = TypeVar("Result")
# How torch's allocators say it where they raise a plain RuntimeError: CUDA libraries, the CPU, Apple's MPS.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "cudnn_status_alloc_failed")


class OutOfMemory(RegionStyleError):
    """Memory ran out even for the smallest part. Where this happens inside a larger halved call, that one goes on."""


@dataclass(frozen=True)
class BatchSlice:
    """Rows `start` to `stop` of a batch of `total`."""

    start: int
    stop: int
    total: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def whole(self) -> bool:
        return self.stop - self.start == self.total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, whatever the device."""
    known = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
    if isinstance(error, (known, MemoryError, OutOfMemory)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _WORDS)


def with_halving(
    work: Callable[[int], Result], size: int, *, host: Host, name: str, smallest: int = 1, multiple: int = 1
) -> Result:
    """work(size), with size halved for as long as memory runs out.

    size: what one try takes at once: images of a batch, or the side of a tile; halves are rounded down to a multiple
    of `multiple`, and `smallest` is the last one tried. `work` starts anew at each try and must leave nothing behind.
    Every other exception passes. OutOfMemory (a RegionStyleError), naming `name`, if it runs out at the smallest size.
    """
    if size < smallest:
        raise wrong_input(name, size, f"{smallest} or more", "Use a larger batch or tile.")
    while True:
        host.check()
        try:
            return work(size)
        except BaseException as error:
            if not is_out_of_memory(error):
                raise
            # The traceback holds the frames of the failed call, and they hold its tensors.
            cause = RuntimeError(str(error))
        half = max(size // 2 // multiple * multiple, smallest)
        if half >= size:
            raise _no_room(name, size) from cause
        size = half
        gc.collect()
        host.empty_cache()


def in_parts(
    call: Callable[[BatchSlice], Result], total: int, *, host: Host, name: str, largest: int | None = None
) -> list[Result]:
    """call(part) for a batch of `total`, as a whole or in as few parts as memory allows; the results in order.

    largest: rows of a part, at most, however much memory there is. At each try it begins again with the first part: a
    call that gathers something (gradients) starts anew there.
    Cancel is checked before each part. RegionStyleError when there is no room for one row.
    """

    def run(size: int) -> list[Result]:
        results = []
        for start in range(0, max(total, 1), size):
            host.check()
            results.append(call(BatchSlice(start, min(start + size, total), total)))
        return results

    return with_halving(run, max(min(total, largest or total), 1), host=host, name=name)


def batched(call: Callable[..., Tensor], *tensors: Tensor, host: Host, name: str) -> Tensor:
    """call(*tensors), or in parts of the batch (the first axis of each tensor) where memory is short.

    For calls that treat the images of a batch apart; the parts' results `[b,...]` are joined in order. See `in_parts`.
    """
    count = len(tensors[0])
    if any(len(tensor) != count for tensor in tensors):
        raise wrong_input(name, [len(tensor) for tensor in tensors], "equal batches", "Repeat the smaller one.")
    parts = in_parts(lambda part: call(*(tensor[part.rows] for tensor in tensors)), count, host=host, name=name)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _no_room(name: str, size: int) -> OutOfMemory:
    return OutOfMemory(
        f"{name}: got no memory even for a size of {size}, expected room for that. Use a smaller picture, or close "
        "what else uses this device."
    )
