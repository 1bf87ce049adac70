"""The fake predictor: a fresh LoRA on the base network that learns the noise of the picture as it is now."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engine.families.network_layers import NetworkSlice, family_of
from ..engine.lora.expert import Expert, LoraLayer

NAME = "sms fake"
RANK, ALPHA = 8, 32
TARGETS = (".to_q", ".to_v")  # of every attention layer


def init_fake(network: nn.Module, seed: int) -> Expert:
    """An expert of rank 8 (alpha 32) on every query and value projection; its up matrices are zero, so it is off.

    The down matrices are drawn uniformly within 1 / sqrt(inputs), PEFT's default, which the published code takes; on
    the CPU, so that every device gives the same.
    """
    generator = torch.Generator().manual_seed(seed)
    places = {path: place for path, place in family_of(network).places(network).items() if path.endswith(TARGETS)}
    layers = {path: _layer(network, place, generator) for path, place in places.items()}
    return Expert(NAME, layers)


def _layer(network: nn.Module, place: NetworkSlice, generator: torch.Generator) -> LoraLayer:
    module = network.get_submodule(place.path)
    inputs, outputs = int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
    rows = outputs if place.rows is None else len(range(*place.rows.indices(outputs)))
    bound = inputs**-0.5
    down: Tensor = torch.empty(RANK, inputs).uniform_(-bound, bound, generator=generator)
    return LoraLayer(down, torch.zeros(rows, RANK), ALPHA / RANK)
