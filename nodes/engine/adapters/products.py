"""What the updates of experts add to a layer's output.

Linear layers: the products of `kernels/lora.py`, for weights that were joined once for all passes, since with many
small layers joining and checking them anew takes longer than the products. Convolutions: the same sums, written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.lora import add_lora, joined_lora
from .batch_rows import ActiveRows
from .updates import Update

# Updates with their gates: `[B]`, one per token `[B,N]`, or one per pixel `[B,h,w]`.
Gated = Sequence[tuple[Update, Tensor]]
# Calls the function, or returns what it gave for the same key before (`ActiveGates.cached`).
Cache = Callable[[Any, Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]]


def add_updates(
    module: nn.Module, x: Tensor, y: Tensor, active: Gated, rows: ActiveRows, cache: Cache, *, in_place: bool = False
) -> Tensor:
    """The output y of a layer for x, with the updates added in some rows of the batch.

    active: gates of these rows only; in_place: y may be changed; otherwise, and while gradients flow, it is not.
    """
    whole = rows.last - rows.first == len(x)
    x, own = (x, y) if whole else (x[rows.first : rows.last], y[rows.first : rows.last])
    in_place = in_place and not torch.is_grad_enabled()
    if rows.value is not None and len(active) == 1 and _fills(active[0][0], own):
        own = _add_one(module, x, own, active[0][0], rows.value, cache, in_place)
    else:
        update = _update(module, x, active, own, cache).to(own.dtype)
        own = own.add_(update) if in_place else own + update
    if in_place:
        return y
    return own if whole else torch.cat([y[: rows.first], own, y[rows.last :]])


def _fills(update: Update, y: Tensor) -> bool:
    """Whether an update covers all outputs, and these have the precision that updates are computed in."""
    outputs = y.shape[1] if y.ndim == 4 else y.shape[-1]
    return y.dtype in (torch.float32, torch.float64) and (update.first, update.last) == (0, outputs)


def _add_one(
    module: nn.Module, x: Tensor, y: Tensor, update: Update, gate: float, cache: Cache, in_place: bool
) -> Tensor:
    """y and one update of one gate everywhere: the sum is part of the last product."""
    make = lambda: (update.weights.down.to(y), update.up().flatten(1).to(y))  # noqa: E731
    down, up = cached_for(cache, "one", [update], y.device, y.dtype, make)
    weight = gate * update.weights.scale
    if not isinstance(module, nn.Conv2d):
        return add_lora(y, x, down, up, weight, in_place=in_place)
    hidden = F.conv2d(x.to(y.dtype), down, None, module.stride, module.padding, module.dilation)
    flat = y.view(*y.shape[:2], -1) if in_place else y.reshape(*y.shape[:2], -1)
    added = flat.baddbmm_ if in_place else flat.baddbmm
    return added(up.expand(len(y), -1, -1), hidden.flatten(2), alpha=weight).view(y.shape)


def _update(module: nn.Module, x: Tensor, active: Gated, y: Tensor, cache: Cache) -> Tensor:
    if isinstance(module, nn.Conv2d):
        return conv_update(module, x, active, cache)
    return linear_update(x, active, y.shape[-1], cache)


def linear_update(x: Tensor, active: Gated, outputs: int, cache: Cache) -> Tensor:
    """Sum of gate * scale * up(down(x)) for x `[B,I]` or `[B,N,I]`; gates `[B]` or `[B,N]`. Returns `[...,outputs]`."""
    tokens = x if x.ndim == 3 else x[:, None]
    by_outputs: dict[tuple[int, int], list[tuple[Update, Tensor]]] = {}
    for update, gate in active:
        by_outputs.setdefault((update.first, update.last), []).append((update, gate))
    if list(by_outputs) == [(0, outputs)]:
        return _routed(tokens, active, cache).reshape(*x.shape[:-1], outputs)
    total = x.new_zeros(*tokens.shape[:-1], outputs)
    for (first, last), members in by_outputs.items():
        total[..., first:last] += _routed(tokens, members, cache)
    return total.reshape(*x.shape[:-1], outputs)


def _routed(tokens: Tensor, active: Gated, cache: Cache) -> Tensor:
    """`[B,N,O]` of updates of the same O output rows."""
    updates = [update for update, _ in active]
    dtype = torch.promote_types(tokens.dtype, torch.float32)
    make = lambda: _joined(updates, tokens.device, dtype)  # noqa: E731
    down, up, *owner = cached_for(cache, "linear", updates, tokens.device, dtype, make)
    gate = _stacked_gates(active, tokens.shape[1]).to(dtype)
    gate = gate[:, None] if gate.ndim == 2 else gate
    weight = gate[..., owner[0]] if owner else gate * updates[0].weights.scale
    return joined_lora(tokens, down, up, weight)


def cached_for(
    cache: Cache, kind: str, updates: Sequence[Update], device: torch.device, dtype: torch.dtype,
    make: Callable[[], tuple[Tensor, ...]],
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `make` gives, from the cache where the weights are frozen. kind: what it is made for.

    By the weights, which live as long as the gates: updates are made anew whenever ComfyUI ejects and injects, and a
    new one may get the address of an old one.
    """
    if any(p.requires_grad for u in updates for p in u.weights.parameters()):
        return make()
    what = [(id(u.weights), u.first, u.last, u.swapped) for u in updates]
    return cache(("lora", kind, *what, device, dtype, torch.is_inference_mode_enabled()), make)


def _joined(updates: Sequence[Update], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """down `[R,I]` and up `[O,R]` of all updates, R being the sum of their ranks, and the index `[R]` of each's update.

    up is scaled where there are several. A single one is taken as it is, without indices; its scale goes into the gate.
    """
    if len(updates) == 1:
        return updates[0].weights.down.to(device, dtype), updates[0].up().to(device, dtype)
    down = torch.cat([u.weights.down.to(device, dtype) for u in updates])
    up = torch.cat([u.up().to(device, dtype) * u.weights.scale for u in updates], 1)
    owner = [index for index, update in enumerate(updates) for _ in range(update.rank)]
    return down, up, torch.tensor(owner, device=device)


def conv_update(module: nn.Conv2d, x: Tensor, active: Gated, cache: Cache) -> Tensor:
    """The same for a Conv2d: x `[B,I,H,W]`; gates `[B]` or, on the grid of the output, `[B,h,w]`."""
    updates = [update for update, _ in active]
    make = lambda: _joined_conv(updates, module.out_channels, x)  # noqa: E731
    down, up = cached_for(cache, "conv", updates, x.device, x.dtype, make)
    hidden = F.conv2d(x, down, None, module.stride, module.padding, module.dilation)
    gated = [
        own * (u.weights.scale * (gate[:, None] if gate.ndim == 3 else gate[:, None, None, None])).to(own)
        for own, (u, gate) in zip(hidden.split([update.rank for update in updates], 1), active, strict=True)
    ]
    hidden = gated[0] if len(gated) == 1 else torch.cat(gated, 1)
    # 1x1: a matrix product, which small convolutions are slower than
    return torch.matmul(up.flatten(1), hidden.flatten(2)).unflatten(2, hidden.shape[2:])


def _joined_conv(updates: Sequence[Update], outputs: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """down `[R,I,k,k]` and up `[O,R,1,1]` of all updates."""
    down = torch.cat([update.weights.down.to(x) for update in updates])
    return down, torch.cat([_all_outputs(update, outputs).to(x) for update in updates], 1)


def _all_outputs(update: Update, outputs: int) -> Tensor:
    """up with zeros for the output rows it does not act on."""
    up = update.up()
    return F.pad(up, (0, 0) * (up.ndim - 1) + (update.first, outputs - update.last))


def _stacked_gates(active: Gated, tokens: int) -> Tensor:
    """The gates as `[B,E]`, or `[B,N,E]` as soon as one gate differs between tokens."""
    gates = [gate for _, gate in active]
    if len(gates) == 1:
        return gates[0][..., None]
    if any(gate.ndim == 2 for gate in gates):
        gates = [gate if gate.ndim == 2 else gate[:, None].expand(-1, tokens) for gate in gates]
    return torch.stack(gates, -1)
