"""The update of one layer: its tensors, whether they fit, and what they add to the output."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import routed_lora
from .errors import wrong_input
from .expert import LoraLayer

Gated = Sequence[tuple["LoraWeights", Tensor]]


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


def check_fit(expert: str, path: str, weights: LoraWeights, module: nn.Module) -> None:
    """RegionStyleError unless the update has the shape of the layer, which must be a Linear or a plain Conv2d.

    1x1 convolutions and Linear layers compute the same, and files mix them: the tensors take the layer's form here.
    """
    name = f"layer {path} of expert {expert!r}"
    if isinstance(module, nn.Linear):
        expected = [module.in_features], module.out_features
        weights.down.data = weights.down.data.flatten(1) if weights.down.shape[2:] == (1, 1) else weights.down.data
        weights.up.data = weights.up.data.flatten(1)
    elif isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        expected = [module.in_channels, *module.kernel_size], module.out_channels
        weights.down.data = weights.down.data[..., None, None] if weights.down.ndim == 2 else weights.down.data
        weights.up.data = weights.up.data[..., None, None] if weights.up.ndim == 2 else weights.up.data
    else:
        raise wrong_input(name, f"a {type(module).__name__}", "Linear or Conv2d", "Use an expert without this layer.")
    outputs = len(range(*weights.rows.indices(expected[1]))) if weights.rows else expected[1]
    if list(weights.down.shape[1:]) != expected[0] or weights.up.shape[0] != outputs:
        got = f"down {list(weights.down.shape)} and up {list(weights.up.shape)}"
        accepts = f"{expected[0]} inputs and {outputs} outputs"
        raise wrong_input(name, got, accepts, "Use experts trained for this kind of model.")


def linear_update(x: Tensor, active: Gated, outputs: int) -> Tensor:
    """Sum of gate * scale * up(down(x)) for x `[B,I]` or `[B,N,I]`; gates `[B]` or `[B,N]`. Returns `[...,outputs]`."""
    tokens = x if x.ndim == 3 else x[:, None]
    rank = max(len(weights.down) for weights, _ in active)
    down = torch.stack([F.pad(w.down.to(x.device), (0, 0, 0, rank - len(w.down))) for w, _ in active])
    up = torch.stack([F.pad(_all_rows(w, outputs).to(x.device), (0, rank - len(w.down))) for w, _ in active])
    gate = _stack_gates(active, tokens.shape[1])
    # The scale is in the gates: a tensor of scales would have to be copied to the device for every layer.
    return routed_lora(tokens, down, up, gate, gate.new_ones(len(active))).reshape(*x.shape[:-1], outputs)


def conv_update(module: nn.Conv2d, x: Tensor, active: Gated) -> Tensor:
    """The same for a Conv2d: x `[B,I,H,W]`; gates `[B]` or, on the grid of the output, `[B,h,w]`."""
    down = torch.cat([weights.down.to(x) for weights, _ in active])
    up = torch.cat([_all_rows(weights, module.out_channels).to(x) for weights, _ in active], 1)
    hidden = F.conv2d(x, down, None, module.stride, module.padding, module.dilation)
    parts = hidden.split([len(weights.down) for weights, _ in active], 1)
    gated = [
        part * (weights.scale * (gate[:, None] if gate.ndim == 3 else gate[:, None, None, None])).to(part)
        for part, (weights, gate) in zip(parts, active, strict=True)
    ]
    return F.conv2d(torch.cat(gated, 1), up)


def _all_rows(weights: LoraWeights, outputs: int) -> Tensor:
    """up with zeros for the output rows it does not act on."""
    if weights.rows is None:
        return weights.up
    start, stop, _ = weights.rows.indices(outputs)
    return F.pad(weights.up, (0, 0) * (weights.up.ndim - 1) + (start, outputs - stop))


def _stack_gates(active: Gated, tokens: int) -> Tensor:
    """gate * scale, `[B,E]`, or `[B,N,E]` as soon as one gate differs between tokens."""
    gates = [gate * weights.scale for weights, gate in active]
    if any(gate.ndim == 2 for gate in gates):
        gates = [gate if gate.ndim == 2 else gate[:, None].expand(-1, tokens) for gate in gates]
    return torch.stack(gates, -1)
