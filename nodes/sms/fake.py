"""The fake predictor: a fresh LoRA on the base network that learns the noise of the picture as it is now."""

from __future__ import annotations

from torch import nn

from ..engine.lora.expert import Expert
from ..engine.lora.init import init_lora

NAME = "sms fake"
RANK, ALPHA = 8, 32
TARGETS = (".to_q", ".to_v")  # of every attention layer


def init_fake(network: nn.Module, seed: int) -> Expert:
    """An expert of rank 8 (alpha 32) on every query and value projection; its up matrices are zero, so it is off.

    The down matrices are drawn uniformly within 1 / sqrt(inputs), PEFT's default, which the published code takes; on
    the CPU, so that every device gives the same.
    """
    return init_lora(network, NAME, "", rank=RANK, alpha=ALPHA, layers=TARGETS, seed=seed)
