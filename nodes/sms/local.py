"""SMS on a predictor over diffusers components: the fake predictor comes and goes with a `with` block."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..engine.adapters.stack import ExpertStack
from ..engine.errors import wrong_input
from ..engine.predictor.diffusers import DiffusersPredictor
from .fake import NAME, init_fake


@contextmanager
def with_fake(predictor: DiffusersPredictor, seed: int) -> Iterator[tuple[DiffusersPredictor, list[nn.Parameter]]]:
    """The predictor with a fresh fake expert beside its own, and the parameters to train.

    Afterwards the network is as before, bit for bit. RegionStyleError when it has no style experts.
    """
    if predictor.experts is None:
        raise wrong_input("model", "a model without style experts", "one or more", "Attach a style LoRA first.")
    own = predictor.experts
    was_attached = own.attached
    together = copy.copy(predictor)
    together.experts = stack = ExpertStack(
        predictor.network, [*(own.expert(name) for name in own.names), init_fake(predictor.network, seed)]
    )
    try:
        own.detach()
        with stack:
            stack.weights.to(next(predictor.network.parameters()).device)
            trained = list(stack.parameters(NAME))
            for parameter in trained:
                parameter.requires_grad_(True)
            yield together, trained
    finally:
        if was_attached:
            own.attach()
