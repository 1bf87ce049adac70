"""A style expert before its training: PEFT's initialisation on the layers of a network of either host."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..engine.errors import wrong_input
from ..engine.families.network_layers import NetworkSlice, family_of, is_linear
from ..engine.lora.expert import Expert, LoraLayer

# Ends of diffusers' layer paths.
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
LAYERS = {
    "attention": ATTENTION,
    "all": (*ATTENTION, ".net.0.proj", ".net.2", ".proj_mlp", ".proj_in", ".proj_out", ".conv1", ".conv2"),
}


def init_lora(network: nn.Module, name: str, style: str, *, rank: int, layers: str, seed: int) -> Expert:
    """An expert that does nothing yet: down as PEFT draws it (uniform, +-1/sqrt(inputs)), up zero, alpha = rank.

    layers: a key of `LAYERS`; "all" adds the feed-forward layers, projections and, in U-Nets, the convolutions of
    the residual blocks. Drawn on the CPU in the order of the layers' names, so that every host and device gives the
    same. RegionStyleError for a network of no known family, a rank below 1 or other layers.
    """
    if layers not in LAYERS:
        raise wrong_input("layers", repr(layers), " or ".join(map(repr, LAYERS)), "Choose one of these.")
    if rank < 1:
        raise wrong_input("rank", rank, "1 or more", "4 to 32 are usual.")
    generator = torch.Generator().manual_seed(seed)
    places = family_of(network).places(network)
    chosen = {path: place for path, place in sorted(places.items()) if path.endswith(LAYERS[layers])}
    made = {path: _layer(network.get_submodule(place.path), place, rank, generator) for path, place in chosen.items()}
    return Expert(name, {path: layer for path, layer in made.items() if layer is not None}, style)


def _layer(module: nn.Module, place: NetworkSlice, rank: int, generator: torch.Generator) -> LoraLayer | None:
    """The update of a Linear or Conv2d; None for the containers that end like one."""
    flat: tuple[int, ...] = ()
    if is_linear(module):
        down, outputs = torch.empty(rank, module.in_features), int(module.out_features)
    elif isinstance(module, nn.Conv2d):
        down = torch.empty(rank, module.in_channels, *module.kernel_size)
        outputs, flat = module.out_channels, (1, 1)
    else:
        return None
    bound: float = down[0].numel() ** -0.5
    down.uniform_(-bound, bound, generator=generator)
    rows = outputs if place.rows is None else len(range(outputs)[place.rows])
    up: Tensor = torch.zeros(rows, rank, *flat)
    return LoraLayer(down, up)
