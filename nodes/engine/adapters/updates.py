"""The updates of an expert: their tensors, whether they fit a layer, and what they add to its output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import wrong_input
from ..families.network_layers import NetworkSlice, is_linear
from ..lora.expert import Expert, LoraLayer
from .gates import Acting

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


def new_update(expert: str, path: str, weights: LoraWeights, place: NetworkSlice, module: nn.Module) -> Update:
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


def add_updates(
    module: nn.Module, x: Tensor, y: Tensor, active: Gated, rows: Acting, remember: Remember, *, in_place: bool = False
) -> Tensor:
    """The output y of a layer for x, with the updates added in some rows of the batch.

    active: gates of these rows only; in_place: y may be changed; otherwise, and while gradients flow, it is not.
    """
    first, last, conv = rows.first, rows.last, isinstance(module, nn.Conv2d)
    whole = last - first == len(x)
    some, before = (x, y) if whole else (x[first:last], y[first:last])
    in_place = in_place and not torch.is_grad_enabled()
    (update, _), *others = active
    if rows.value is not None and not others and _same_outputs(update, before):
        add = _add_conv if conv else _add_linear
        down, up = _kept(remember, [update], y.device, y.dtype, lambda: _as_used(update, y))[:2]
        scale = rows.value * update.weights.scale
        after = add(module, some, before, down, up, scale, in_place)  # type: ignore[arg-type]
    elif conv:
        after = _sum(before, conv_update(module, some, active, remember), in_place)  # type: ignore[arg-type]
    else:
        after = _sum(before, linear_update(some, active, y.shape[-1], remember), in_place)
    if in_place:
        return y
    return after if whole else torch.cat([y[:first], after, y[last:]])


def _sum(before: Tensor, update: Tensor, in_place: bool) -> Tensor:
    return before.add_(update.to(before.dtype)) if in_place else before + update.to(before.dtype)


def _same_outputs(update: Update, y: Tensor) -> bool:
    """Whether an update covers all outputs, and these have the precision that updates are computed in."""
    outputs = y.shape[1] if y.ndim == 4 else y.shape[-1]
    return y.dtype in (torch.float32, torch.float64) and (update.first, update.last) == (0, outputs)


def _as_used(update: Update, y: Tensor) -> tuple[Tensor, Tensor]:
    return update.weights.down.to(y), update.up().flatten(1).to(y)


def _add_linear(
    module: nn.Module, x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: float, in_place: bool
) -> Tensor:
    """y + scale * up(down(x)) with the sum inside the second product, for one scale."""
    with torch.autocast(x.device.type, enabled=False) if torch.is_autocast_enabled() else nullcontext():
        hidden = F.linear(x.reshape(-1, x.shape[-1]).to(y.dtype), down)
        flat = y.view(-1, y.shape[-1]) if in_place else y.reshape(-1, y.shape[-1])
        added = flat.addmm_ if in_place else flat.addmm
        return added(hidden, up.T, alpha=scale).view(y.shape)


def _add_conv(
    module: nn.Conv2d, x: Tensor, y: Tensor, down: Tensor, up: Tensor, scale: float, in_place: bool
) -> Tensor:
    hidden = F.conv2d(x.to(y.dtype), down, None, module.stride, module.padding, module.dilation)
    flat = y.view(*y.shape[:2], -1) if in_place else y.reshape(*y.shape[:2], -1)
    added = flat.baddbmm_ if in_place else flat.baddbmm
    return added(up.expand(len(y), -1, -1), hidden.flatten(2), alpha=scale).view(y.shape)


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
    make = lambda: _joined(updates, tokens.device, dtype)  # noqa: E731
    down, up, owner = _kept(remember, updates, tokens.device, dtype, make)
    gate = _stack_gates(active, tokens.shape[1]).to(dtype)
    gate = gate[:, None] if gate.ndim == 2 else gate
    with torch.autocast(tokens.device.type, enabled=False) if torch.is_autocast_enabled() else nullcontext():
        hidden = F.linear(tokens.to(dtype), down)
        hidden = hidden * (gate * updates[0].weights.scale if len(updates) == 1 else gate[..., owner])
        return F.linear(hidden, up).to(tokens.dtype)


def _kept(
    remember: Remember | None, updates: Sequence[Update], device: torch.device, dtype: torch.dtype,
    make: Callable[[], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `make` gives, from memory where the weights are frozen."""
    if remember is None or any(p.requires_grad for u in updates for p in u.weights.parameters()):
        return make()
    return remember(("lora", *map(id, updates), device, dtype, torch.is_inference_mode_enabled()), make)


def _joined(updates: Sequence[Update], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """down `[R,I]` and up `[O,R]` of all updates, R being the sum of their ranks, and whose each rank is.

    up is scaled where there are several; a single one is taken as it is, its scale goes into the gate.
    """
    if len(updates) == 1:
        weights = updates[0].weights
        return weights.down.to(device, dtype), updates[0].up().to(device, dtype), weights.down
    down = torch.cat([u.weights.down.to(device, dtype) for u in updates])
    up = torch.cat([u.up().to(device, dtype) * u.weights.scale for u in updates], 1)
    owner = [at for at, u in enumerate(updates) for _ in range(u.rank)]
    return down, up, torch.tensor(owner, device=device)


def conv_update(module: nn.Conv2d, x: Tensor, active: Gated, remember: Remember | None = None) -> Tensor:
    """The same for a Conv2d: x `[B,I,H,W]`; gates `[B]` or, on the grid of the output, `[B,h,w]`."""
    updates = [update for update, _ in active]
    make = lambda: _joined_conv(updates, module.out_channels, x)  # noqa: E731
    down, up = _kept(remember, updates, x.device, x.dtype, make)
    hidden = F.conv2d(x, down, None, module.stride, module.padding, module.dilation)
    parts = hidden.split([update.rank for update in updates], 1)
    gated = [
        part * (u.weights.scale * (gate[:, None] if gate.ndim == 3 else gate[:, None, None, None])).to(part)
        for part, (u, gate) in zip(parts, active, strict=True)
    ]
    hidden = gated[0] if len(gated) == 1 else torch.cat(gated, 1)
    # 1x1: a matrix product, which small convolutions are slower than
    return torch.matmul(up.flatten(1), hidden.flatten(2)).unflatten(2, hidden.shape[2:])


def _joined_conv(updates: Sequence[Update], outputs: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """down `[R,I,k,k]` and up `[O,R,1,1]` of all updates."""
    down = torch.cat([update.weights.down.to(x) for update in updates])
    return down, torch.cat([_all_rows(update, outputs).to(x) for update in updates], 1)


def _all_rows(update: Update, outputs: int) -> Tensor:
    """up with zeros for the output rows it does not act on."""
    up = update.up()
    return F.pad(up, (0, 0) * (up.ndim - 1) + (update.first, outputs - update.last))


def _stack_gates(active: Gated, tokens: int) -> Tensor:
    """The gates as `[B,E]`, or `[B,N,E]` as soon as one gate differs between tokens."""
    gates = [gate for _, gate in active]
    if len(gates) == 1:
        return gates[0][..., None]
    if any(gate.ndim == 2 for gate in gates):
        gates = [gate if gate.ndim == 2 else gate[:, None].expand(-1, tokens) for gate in gates]
    return torch.stack(gates, -1)
