"""Gradient checkpointing (Chen et al., arXiv:1604.06174) of networks that have none of their own: ComfyUI's.

A block keeps none of its activations; the backward pass runs it a second time. torch's own function does not fit here:
ComfyUI's blocks write into tensors in place, also into those they are given, which it does not see, so that gradients
come out wrong without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import RegionStyleError
from .wrapped_forward import WrappedForward

Remember = Callable[[], Callable[[], AbstractContextManager[None]]]


@contextmanager
def checkpointed(blocks: Sequence[nn.Module], remember: Remember) -> Iterator[None]:
    """Inside, these blocks are checkpointed; they must do the same when they run again, and no block may hold another.

    remember: called when a block runs, gives what puts the state of that moment back for the length of a block.
    Outputs made on the side, such as attention maps, have their gradients too. Forward and backward pass both inside.
    Random numbers are other ones the second time: blocks that draw some, such as dropout, are not supported.
    """
    running: dict[nn.Module, _Run] = {}
    copies = _Copies()
    wraps: list[WrappedForward] = []

    def around(block: nn.Module) -> Callable[..., Any]:
        def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if block in running:
                return running[block].again(original, args, kwargs)
            if not torch.is_grad_enabled():
                return original(*args, **kwargs)
            given = [copies.of(value) for value in (*args, *kwargs.values())]
            return _Run(block, given, list(kwargs), running, remember()).first(original, args, kwargs)

        return call

    try:
        wraps.extend(WrappedForward(block, around(block)) for block in blocks)
        yield
    finally:
        while wraps:
            wraps.pop().restore()


class _Run:
    """One run of a block, which is repeated when the backward pass asks for a tensor that it saved."""

    def __init__(
        self,
        block: nn.Module,
        given: Sequence[Any],
        names: Sequence[str],
        running: dict[nn.Module, _Run],
        state: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """given: what it is called with, as `_Copies` has it, those with names last; running: blocks that run again."""
        self._block, self._running, self._state = block, running, state
        self._given, self._names = given, names
        self._context: Context = copy_context()  # the backward pass may run in another thread
        self._precision = _precision_of(given)
        self._count, self._kept, self._made = 0, dict[int, Tensor](), 0

    def first(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward pass, whose saved tensors are numbers."""
        with saved_tensors_hooks(self._number, self._found):
            return original(*args, **kwargs)

    def again(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The second run, which keeps what the first would have saved."""
        with saved_tensors_hooks(self._keep, _never):
            return original(*args, **kwargs)

    def _number(self, tensor: Tensor) -> int:
        self._count += 1
        return self._count - 1

    def _keep(self, tensor: Tensor) -> int:
        # A copy, since a later layer may write into the tensor; weights stay as they are, and their transposes.
        weight = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        self._kept[self._made] = tensor.detach() if weight else _alike(tensor)
        self._made += 1
        return self._made - 1

    def _found(self, number: int) -> Tensor:
        if number not in self._kept:
            self._context.copy().run(self._repeat)
        return self._kept.pop(number)

    def _repeat(self) -> None:
        """Run the block from copies of what it was given, as everything was then; hooks on it run as well."""
        self._kept, self._made = {}, 0
        self._running[self._block] = self
        try:
            with torch.inference_mode(False), torch.enable_grad(), self._precision(), self._state():
                used: dict[_Copy, Tensor] = {}  # what is given twice is one tensor
                given = [_used(value, used) for value in self._given]
                places = len(given) - len(self._names)
                self._block(*given[:places], **dict(zip(self._names, given[places:], strict=True)))
        finally:
            del self._running[self._block]
        if self._made != self._count:
            raise RegionStyleError(
                f"checkpointing: got {self._made} tensors from {type(self._block).__name__} when it ran again, "
                f"expected the {self._count} of its first run. A patch on the model does something else each time: "
                "switch checkpointing off."
            )


def _alike(tensor: Tensor, graded: bool = False) -> Tensor:
    """A copy that lies in memory as the tensor does: kernels round otherwise for other layouts.

    graded: where gradients are on, it requires grad and may be written into all the same.
    """
    own = tensor.detach().requires_grad_(graded)
    if any(size > 1 and not stride for size, stride in zip(own.shape, own.stride(), strict=True)):
        return own.clone()  # expanded
    return torch.empty_strided(own.shape, own.stride(), dtype=own.dtype, device=own.device).copy_(own)


def _never(number: int) -> Tensor:
    raise RegionStyleError("checkpointing: got a backward pass inside of a second run, expected none. Switch it off.")


@dataclass(frozen=True, eq=False)
class _Copy:
    """A tensor as it was; graded: whether it required grad."""

    value: Tensor
    graded: bool

    def used(self) -> Tensor:
        """One that may be written into, and requires grad as the first did. Call it where gradients are on."""
        return _alike(self.value, self.graded)


class _Copies:
    """Copies of what blocks are given, since they write into it; one of what many are given alike, such as words."""

    def __init__(self) -> None:
        self._known = WeakIdKeyDictionary()  # tensor -> its version and copy

    def of(self, value: Any) -> Any:
        """A tensor's copy; a table with the entries it has now, and those in it; anything else as it is.

        Tuples, lists and tables within are looked through for tensors; other objects are not.
        """
        if isinstance(value, Tensor):
            return self._of_tensor(value)
        return _rebuilt(value, self.of)

    def _of_tensor(self, value: Tensor) -> _Copy:
        if value.is_inference():  # which tells nobody that it was written into
            return _Copy(_alike(value), False)
        version, copy = self._known.get(value, (None, None))
        if copy is None or version != value._version:
            copy = _Copy(_alike(value), value.requires_grad)
            self._known[value] = value._version, copy
        return copy


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A new table, list or tuple of what was changed of its entries; anything else as it is."""
    if isinstance(value, dict):
        return {name: change(entry) for name, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(change(entry) for entry in value)
    return value


def _used(value: Any, used: dict[_Copy, Tensor]) -> Any:
    """What a block is given when it runs again, of what `_Copies` has."""
    if isinstance(value, _Copy):
        if value not in used:
            used[value] = value.used()
        return used[value]
    return _rebuilt(value, lambda entry: _used(entry, used))


def _precision_of(given: Sequence[Any]) -> Callable[[], AbstractContextManager[None]]:
    """Puts back the automatic mixed precision of now, on the CPU and where what is given lies."""
    kinds = {"cpu"} | {one.value.device.type for one in given if isinstance(one, _Copy)}
    now = [
        (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        for kind in sorted(kinds)
        if torch.amp.is_autocast_available(kind)
    ]
    cached = torch.is_autocast_cache_enabled()

    @contextmanager
    def again() -> Iterator[None]:
        with ExitStack() as stack:
            for each in now:
                stack.enter_context(torch.autocast(*each, cached))
            yield

    return again
