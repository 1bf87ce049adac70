"""Replacing `forward` of a module so that it can be put back exactly, whoever else replaces it too."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch import nn


class WrappedForward:
    """`module.forward` now calls `around(original, *args, **kwargs)`.

    `restore` leaves the module as it was. If somebody wrapped the same module after us, taking our function out would
    cut theirs off; ours then stays in the chain and only passes calls on, and is dropped when it lies on top again.
    A deep copy of the module is not wrapped: it would otherwise go on computing with the weights of this one.
    """

    def __init__(self, module: nn.Module, around: Callable[..., Any]) -> None:
        _drop_idle(module)
        self.module, self.around, self.active = module, around, True
        self.own = module.__dict__.get("forward")  # None: the method of the class
        self.original = module.forward
        functools.update_wrapper(self, self.original, updated=())
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.original, *args, **kwargs) if self.active else self.original(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """What the copy of the module, which is in the memo by now, has as its forward."""
        if self.own is not None:
            return copy.deepcopy(self.own, memo)
        module = memo.get(id(self.module), self.module)
        return type(module).forward.__get__(module)

    @property
    def cut_off(self) -> bool:
        """Whether somebody has put the module's own forward back, and so removed this function with theirs."""
        top = self.module.__dict__.get("forward")
        return self.active and (top is None or getattr(top, "__func__", None) is type(self.module).forward)

    def restore(self) -> None:
        """Stop acting, and take the function out of the module if it lies on top."""
        self.active = False
        self.around = _nothing  # while the function stays in somebody's chain, it must not keep the experts in memory
        _drop_idle(self.module)


def _nothing(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return original(*args, **kwargs)


def _drop_idle(module: nn.Module) -> None:
    """Take idle wrappers off the top."""
    while True:
        top = module.__dict__.get("forward")
        if not isinstance(top, WrappedForward) or top.active:
            return
        if top.own is None:
            del module.forward
        else:
            module.forward = top.own
