"""Networks under torch.compile: the network inside, and running it as it is written."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def original_network(network: Any) -> Any:
    """The network that `torch.compile` wraps, whose layers it calls; any other comes back as it is."""
    return getattr(network, "_orig_mod", network)


def uncompiled() -> AbstractContextManager[Any]:
    """Inside, compiled networks run as they are written.

    Compiled code does not notice hooks that are set or taken away later (`torch._dynamo.config`,
    skip_nnmodule_hook_guards), so whoever watches a network with hooks must not run it. Before torch 2.6 there is no
    way to ask for this.
    """
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")
