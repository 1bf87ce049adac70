"""An expert's tensors as parameters of modules, so that they move between devices, are counted and can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from ..lora.expert import Expert, LoraLayer


class LoraWeights(nn.Module):
    """A `LoraLayer` whose tensors are parameters (copies)."""

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        self.down = nn.Parameter(layer.down.detach().clone(), requires_grad=False)
        self.up = nn.Parameter(layer.up.detach().clone(), requires_grad=False)
        self.scale, self.rows = layer.scale, layer.rows

    def layer(self) -> LoraLayer:
        """A copy of the tensors as they are now."""
        return LoraLayer(self.down.detach().clone(), self.up.detach().clone(), self.scale, self.rows)


class ExpertWeights(nn.Module):
    """An expert's tensors as parameters (copies, not trainable until asked), for devices and optimisers."""

    def __init__(self, expert: Expert) -> None:
        super().__init__()
        self.source = replace(expert, layers={path: replace(layer) for path, layer in expert.layers.items()})
        with torch.inference_mode(False):
            self.layers = nn.ModuleList(LoraWeights(layer) for layer in expert.layers.values())

    @property
    def name(self) -> str:
        return self.source.name

    def items(self) -> Iterator[tuple[str, LoraWeights]]:
        """Module path and weights of every layer."""
        return zip(self.source.layers, self.layers, strict=True)  # type: ignore[arg-type]

    def expert(self) -> Expert:
        """The weights as they are now."""
        return replace(self.source, layers={path: weights.layer() for path, weights in self.items()})
