"""An expert's tensors as parameters of modules, so that they move between devices, are counted and can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from ..lora.expert import Expert, LoraLayer
from ..lora.magnitude import Magnitude


class LoraWeights(nn.Module):
    """A `LoraLayer` whose tensors are parameters (copies)."""

    def __init__(self, layer: LoraLayer) -> None:
        super().__init__()
        self.down = nn.Parameter(layer.down.detach().clone(), requires_grad=False)
        self.up = nn.Parameter(layer.up.detach().clone(), requires_grad=False)
        self.scale, self.rows, self._kind = layer.scale, layer.rows, layer.magnitude
        self.magnitudes: nn.Parameter | None = None
        if layer.magnitude is not None:
            values = layer.magnitude.values.detach()
            self._kind = replace(layer.magnitude, values=values.new_empty(0))
            self.magnitudes = nn.Parameter(values.clone(), requires_grad=False)

    @property
    def magnitude(self) -> Magnitude | None:
        """As the parameter is now; None unless it is a DoRA layer."""
        if self._kind is None or self.magnitudes is None:
            return None
        return replace(self._kind, values=self.magnitudes)

    def layer(self) -> LoraLayer:
        """A copy of the tensors as they are now."""
        down, up, magnitude = self.down.detach().clone(), self.up.detach().clone(), self.magnitude
        if magnitude is not None:
            magnitude = replace(magnitude, values=magnitude.values.detach().clone())
        return LoraLayer(down, up, self.scale, self.rows, magnitude)


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
