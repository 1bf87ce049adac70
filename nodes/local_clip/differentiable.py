"""Blocks in which the networks may be differentiated, on either host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..engine.host.base import Host
from ..engine.host.comfy import ComfyHost


@contextmanager
def differentiable(host: Host, modules: tuple[Any, ...], patcher: Any = None) -> Iterator[Any]:
    """Inside, modules are loaded and may be differentiated, also where the host had gradients switched off.

    patcher: ComfyUI's patcher of another network that is needed; gives the one to use in its place, or None.
    """
    if isinstance(host, ComfyHost):
        patchers = [host.patcher(module) for module in modules]
        with host.gradients(*patchers, *([] if patcher is None else [patcher])) as whole:
            yield None if patcher is None else whole[-1]
        return
    with torch.inference_mode(False), torch.enable_grad():
        host.load(*modules)
        yield None
