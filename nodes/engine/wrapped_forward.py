"""Replacing `forward` of a module so that it can be put back exactly, whoever else replaces it too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn


class WrappedForward:
    """`module.forward` now calls `around(original, *args, **kwargs)`.

    `restore` leaves the module as it was. If somebody wrapped the same module after us, taking our function out would
    cut theirs off; ours then stays in the chain and only passes calls on, and is dropped when it lies on top again.
    """

    def __init__(self, module: nn.Module, around: Callable[..., Any]) -> None:
        _drop_idle(module)
        self.module = module
        self._own = module.__dict__.get("forward")  # None: the method of the class
        original = module.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs) if self.active else original(*args, **kwargs)

        forward._regionstyle = self  # type: ignore[attr-defined]
        self.active = True
        self._forward = forward
        module.forward = forward

    def restore(self) -> None:
        """Stop acting, and take the function out of the module if it lies on top."""
        self.active = False
        _drop_idle(self.module)


def _drop_idle(module: nn.Module) -> None:
    """Take idle wrappers off the top."""
    while True:
        top = getattr(module.__dict__.get("forward"), "_regionstyle", None)
        if top is None or top.active or top.module is not module:
            return
        if top._own is None:
            del module.forward
        else:
            module.forward = top._own
