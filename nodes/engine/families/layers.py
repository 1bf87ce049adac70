"""Layers of a network by the names diffusers gives them, which are the pack's own names on both hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn

from ..errors import wrong_input


@dataclass(frozen=True)
class LayerSlice:
    """A layer `module`, or some of its output rows, is what diffusers calls the layer `path`.

    module: the layer's name in a network or in a LoRA file, which may compute several of diffusers' layers at once.
    rows: the output rows that are diffusers' layer; None: all. swapped: the two halves of the output are in the other
    order there.
    """

    module: str
    path: str
    rows: slice | None = None
    swapped: bool = False


# (name, module) of a layer -> the layers of diffusers that it computes; empty for one without a counterpart.
SlicesOf = Callable[[str, nn.Module], list[LayerSlice]]


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it computes a linear layer: ComfyUI's quantised ones are not torch's."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def refuse_fused(network: nn.Module) -> None:
    """RegionStyleError where diffusers has fused projections: it then does not call the layers that experts are for."""
    for path, module in network.named_modules():
        if getattr(module, "fused_projections", False):
            remedy = "Call unfuse_qkv_projections() on the network first."
            raise wrong_input("network", f"fused projections in {path}", "separate projections", remedy)


def has_attributes(network: nn.Module, *names: str) -> bool:
    """Whether a network has all these attributes."""
    return all(hasattr(network, name) for name in names)


def class_names(thing: object) -> list[str]:
    """Names of an object's class and of those it is derived from, the nearest first."""
    return [base.__name__ for base in type(thing).__mro__]
