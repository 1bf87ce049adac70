"""The fake predictor: a fresh LoRA on the base network that learns the noise of the picture as it is now."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..engine.adapters.stack import ExpertStack
from ..engine.errors import wrong_input
from ..engine.lora.expert import Expert
from ..engine.lora.init import init_lora
from ..engine.predictor.diffusers import DiffusersPredictor

NAME = "sms fake"
RANK, ALPHA = 8, 32
TARGETS = (".to_q", ".to_v")  # of every attention layer


def init_fake(network: nn.Module, seed: int) -> Expert:
    """An expert of rank 8 (alpha 32) on every query and value projection; its up matrices are zero, so it is off.

    The down matrices are drawn uniformly within 1 / sqrt(inputs), PEFT's default, which the published code takes; on
    the CPU, so that every device gives the same.
    """
    return init_lora(network, NAME, "", rank=RANK, alpha=ALPHA, layers=TARGETS, seed=seed)


@contextmanager
def with_fake(predictor: DiffusersPredictor, seed: int) -> Iterator[tuple[DiffusersPredictor, list[nn.Parameter]]]:
    """A predictor over diffusers components with a fresh fake expert beside its own, and the parameters to train.

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
