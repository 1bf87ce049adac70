"""LoRA experts before their training: up is zero, so that they do nothing yet; down is drawn at random."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import wrong_input
from ..families.layers import LayerSlice, is_linear
from ..families.registry import family_of
from .expert import Expert, LoraLayer

# Ends of diffusers' layer paths, by the name of a set of layers.
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
LAYERS = {
    "attention": ATTENTION,
    "all": (*ATTENTION, ".net.0.proj", ".net.2", ".proj_mlp", ".proj_in", ".proj_out", ".conv1", ".conv2"),
}
Distribution = Literal["uniform", "normal"]


def init_lora(
    network: nn.Module,
    name: str,
    style: str,
    *,
    rank: int,
    layers: str | tuple[str, ...],
    seed: int,
    alpha: float | None = None,
    distribution: Distribution = "uniform",
) -> Expert:
    """An expert that does nothing yet, on layers of a network of either host.

    layers: a key of `LAYERS` ("all" adds the feed-forward layers, projections and, in U-Nets, the convolutions of the
    residual blocks), or ends of diffusers' layer paths. alpha: scales every update by alpha / rank (None: by 1).
    distribution, of down: "uniform" within +-1 / sqrt(inputs), as PEFT draws it for `init_lora_weights=True`, layer
    after layer in the order of their names; "normal" with a standard deviation of 1 / rank, as PEFT's "gaussian", in
    the order of the network. Drawn on the CPU, so that every host and device gives the same numbers for a seed.

    RegionStyleError for a network of no known family, a rank below 1 or other layers.
    """
    if isinstance(layers, str) and layers not in LAYERS:
        raise wrong_input("layers", repr(layers), " or ".join(map(repr, LAYERS)), "Choose one of these.")
    if rank < 1:
        raise wrong_input("rank", rank, "1 or more", "4 to 32 are usual.")
    generator = torch.Generator().manual_seed(seed)
    ends = LAYERS[layers] if isinstance(layers, str) else layers
    slices = family_of(network).layer_slices(network)
    paths = [path for path in slices if path.endswith(ends)]
    updates: dict[str, LoraLayer] = {}
    for path in sorted(paths) if distribution == "uniform" else paths:
        empty = _empty_update(network.get_submodule(slices[path].module), slices[path], rank, alpha)
        if empty is not None:
            _draw(empty.down, distribution, generator)
            updates[path] = empty
    return Expert(name, updates, style)


def _empty_update(module: nn.Module, piece: LayerSlice, rank: int, alpha: float | None) -> LoraLayer | None:
    """The update of a Linear or Conv2d, all zeros; None for the containers whose paths end like one."""
    flat: tuple[int, ...] = ()
    if is_linear(module):
        down, outputs = torch.zeros(rank, module.in_features), int(module.out_features)
    elif isinstance(module, nn.Conv2d):
        down = torch.zeros(rank, module.in_channels, *module.kernel_size)
        outputs, flat = module.out_channels, (1, 1)
    else:
        return None
    rows = len(range(outputs)[piece.rows or slice(None)])
    return LoraLayer(down, torch.zeros(rows, rank, *flat), 1.0 if alpha is None else alpha / rank)


def _draw(down: Tensor, distribution: Distribution, generator: torch.Generator) -> None:
    """Fill down `[R,...]` in place."""
    if distribution == "uniform":
        bound = down[0].numel() ** -0.5
        down.uniform_(-bound, bound, generator=generator)
    else:
        down.normal_(generator=generator).div_(len(down))
