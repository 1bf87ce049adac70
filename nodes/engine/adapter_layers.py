"""The updates of an expert: their tensors, whether they fit a layer, and what they add to its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter_families import Place, is_linear
from .errors import wrong_input
from .expert import Expert, LoraLayer

Gated = Sequence[tuple["Update", Tensor]]


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


@dataclass(eq=False)
class Update:
    """An expert's tensors at their place in a layer.

    first, last: the output rows they act on; swapped: the layer has the two halves of these rows in the other order.
    """

    expert: str
    weights: LoraWeights
    first: int
    last: int
    swapped: bool = False

    @property
    def rank(self) -> int:
        return len(self.weights.down)

    def up(self) -> Tensor:
        """up with its rows in the layer's order."""
        up = self.weights.up
        return up.roll(len(up) // 2, 0) if self.swapped else up


def new_update(expert: str, path: str, weights: LoraWeights, place: Place, module: nn.Module) -> Update:
    """RegionStyleError unless the update has the shape of the layer, which must be a Linear or a plain Conv2d.

    path: diffusers path, for messages. 1x1 convolutions and Linear layers compute the same, and files mix them: the
    tensors take the layer's form here.
    """
    name = f"layer {path} of expert {expert!r}"
    if is_linear(module):
        inputs, outputs = [module.in_features], module.out_features
        weights.down.data = weights.down.data.flatten(1) if weights.down.shape[2:] == (1, 1) else weights.down.data
        weights.up.data = weights.up.data.flatten(1)
    elif isinstance(module, nn.Conv2d) and module.groups == 1 and module.padding_mode == "zeros":
        inputs, outputs = [module.in_channels, *module.kernel_size], module.out_channels
        weights.down.data = weights.down.data[..., None, None] if weights.down.ndim == 2 else weights.down.data
        weights.up.data = weights.up.data[..., None, None] if weights.up.ndim == 2 else weights.up.data
    else:
        raise wrong_input(name, f"a {type(module).__name__}", "Linear or Conv2d", "Use an expert without this layer.")
    rows = range(outputs)[place.rows or slice(None)][weights.rows or slice(None)]
    if list(weights.down.shape[1:]) != inputs or weights.up.shape[0] != len(rows):
        got = f"down {list(weights.down.shape)} and up {list(weights.up.shape)}"
        accepts = f"{inputs} inputs and {len(rows)} outputs"
        raise wrong_input(name, got, accepts, "Use experts trained for this kind of model.")
    return Update(expert, weights, rows.start, rows.stop, place.swapped)


Remember = Callable[[Any, Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]]


def linear_update(x: Tensor, active: Gated, outputs: int, remember: Remember | None = None) -> Tensor:
    """Sum of gate * scale * up(down(x)) for x `[B,I]` or `[B,N,I]`; gates `[B]` or `[B,N]`. Returns `[...,outputs]`.

    remember: keeps what frozen weights are joined to, by a key.
    """
    tokens = x if x.ndim == 3 else x[:, None]
    by_rows: dict[tuple[int, int], list[tuple[Update, Tensor]]] = {}
    for update, gate in active:
        by_rows.setdefault((update.first, update.last), []).append((update, gate))
    if list(by_rows) == [(0, outputs)]:
        return _same_rows(tokens, active, remember).reshape(*x.shape[:-1], outputs)
    total = x.new_zeros(*tokens.shape[:-1], outputs)
    for (first, last), members in by_rows.items():
        total[..., first:last] += _same_rows(tokens, members, remember)
    return total.reshape(*x.shape[:-1], outputs)


def _same_rows(tokens: Tensor, active: Gated, remember: Remember | None) -> Tensor:
    """`[B,N,O]` of updates of the same O rows.

    What `kernels.routed_lora` computes, in float32 or better as there, for weights that were joined before: with many
    small layers, joining and checking them anew takes longer than the products.
    """
    updates = [update for update, _ in active]
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    frozen = remember is not None and not any(p.requires_grad for u in updates for p in u.weights.parameters())
    key = ("lora", *map(id, updates), tokens.device, dtype, torch.is_inference_mode_enabled())
    make = lambda: _joined(updates, tokens.device, dtype)  # noqa: E731
    down, up, owner = remember(key, make) if frozen and remember is not None else make()
    gate = _stack_gates(active, tokens.shape[1]).to(dtype)
    gate = gate[:, None] if gate.ndim == 2 else gate
    with torch.autocast(tokens.device.type, enabled=False) if torch.is_autocast_enabled() else nullcontext():
        hidden = F.linear(tokens.to(dtype), down)
        hidden = hidden * (gate if len(updates) == 1 else gate[..., owner])
        return F.linear(hidden, up).to(tokens.dtype)


def _joined(updates: Sequence[Update], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """down `[R,I]` and scaled up `[O,R]` of all updates, R being the sum of their ranks, and whose each rank is."""
    down = torch.cat([u.weights.down.to(device, dtype) for u in updates])
    up = torch.cat([u.up().to(device, dtype) * u.weights.scale for u in updates], 1)
    owner = [at for at, u in enumerate(updates) for _ in range(u.rank)]
    return down, up, torch.tensor(owner, device=device)


def conv_update(module: nn.Conv2d, x: Tensor, active: Gated) -> Tensor:
    """The same for a Conv2d: x `[B,I,H,W]`; gates `[B]` or, on the grid of the output, `[B,h,w]`."""
    down = torch.cat([update.weights.down.to(x) for update, _ in active])
    up = torch.cat([_all_rows(update, module.out_channels).to(x) for update, _ in active], 1)
    hidden = F.conv2d(x, down, None, module.stride, module.padding, module.dilation)
    parts = hidden.split([update.rank for update, _ in active], 1)
    gated = [
        part * (u.weights.scale * (gate[:, None] if gate.ndim == 3 else gate[:, None, None, None])).to(part)
        for part, (u, gate) in zip(parts, active, strict=True)
    ]
    return F.conv2d(torch.cat(gated, 1), up)


def _all_rows(update: Update, outputs: int) -> Tensor:
    """up with zeros for the output rows it does not act on."""
    up = update.up()
    return F.pad(up, (0, 0) * (up.ndim - 1) + (update.first, outputs - update.last))


def _stack_gates(active: Gated, tokens: int) -> Tensor:
    """The gates as `[B,E]`, or `[B,N,E]` as soon as one gate differs between tokens."""
    gates = [gate for _, gate in active]
    if any(gate.ndim == 2 for gate in gates):
        gates = [gate if gate.ndim == 2 else gate[:, None].expand(-1, tokens) for gate in gates]
    return torch.stack(gates, -1)
