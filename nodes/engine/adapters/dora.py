"""What DoRA experts add to a layer's output: the layer with the update and its magnitudes, minus the layer.

Liu et al., DoRA, arXiv:2402.09353, equation 5: W' = m (W + s BA) / |W + s BA|. For magnitudes by output, with the
factors f = m / |.| of the rows, and b the bias,

    W'x - Wx = (f - 1) (y - b) + f s B A x,

y being the layer's own output, so that the pass needs no weight: only f does, once for a run. By input, f scales the
columns, and the layer runs once more: W'x - Wx = W (f - 1) x + s B A f x. A gate multiplies the difference, as the
strength of ComfyUI's loader does. Which length |.| is, is told in `lora/magnitude.py`. Gradients reach down, up and m;
lengths count as constants (section 4.3 there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdRef

from ....kernels.lora import joined_lora
from ..lora.magnitude import Magnitude
from .batch_rows import ActiveRows
from .own_weight import own_output, own_weight
from .updates import Update

Cache = Callable[[Any, Callable[[], tuple[Tensor, ...]]], tuple[Tensor, ...]]
# Rows of the batch and outputs of a layer, and what is added to its output there.
Change = tuple[tuple[Any, ...], Tensor]


def dora_changes(
    module: nn.Module, x: Tensor, y: Tensor, active: Sequence[tuple[Update, Tensor]], rows: ActiveRows, cache: Cache
) -> list[Change]:
    """For the DoRA layers among the updates: what each changes of the layer's own output y for x.

    active: updates with gates of these rows only: `[B]`, one per token `[B,N]`, or one per pixel `[B,h,w]`.
    """
    batch, changes = slice(rows.first, rows.last), []
    for update, gate in active:
        outputs = slice(update.first, update.last)
        place = (batch, outputs) if isinstance(module, nn.Conv2d) else (batch, ..., outputs)
        changes.append((place, _difference(module, x[batch], y[place], update, gate, cache)))
    return changes


def with_changes(y: Tensor, changes: Sequence[Change], *, in_place: bool) -> Tensor:
    """y plus all changes; y itself is changed only with `in_place` and where no gradients flow."""
    if changes and (not in_place or torch.is_grad_enabled()):
        y = y.clone()
    for place, change in changes:
        y[place] += change.to(y.dtype)
    return y


def _difference(module: nn.Module, x: Tensor, y: Tensor, update: Update, gate: Tensor, cache: Cache) -> Tensor:
    """gate * (W'x - Wx) for the outputs of one update, y being the layer's own output there."""
    conv, dtype = isinstance(module, nn.Conv2d), torch.promote_types(x.dtype, torch.float32)
    magnitude = update.magnitude
    assert magnitude is not None
    down, up, more, bias = _tensors(module, x, update, magnitude, dtype, cache)
    gate = gate.to(dtype)
    gate = gate[:, None] if conv and gate.ndim == 3 else gate.reshape(*gate.shape, *[1] * (y.ndim - gate.ndim))
    if not magnitude.by_input:
        own = (y.to(dtype) - _per_channel(bias, conv)) * _per_channel(more, conv)
        return gate * (own + _low_rank(module, x.to(dtype), down, up))
    more = _per_channel(more, conv)
    own = own_output(module, (x.to(dtype) * more).to(x.dtype))
    own = own[:, update.first : update.last] if conv else own[..., update.first : update.last]
    own = own.to(dtype) - _per_channel(bias, conv)
    return gate * (own + _low_rank(module, x.to(dtype) * (more + 1), down, up))


def _per_channel(values: Tensor, conv: bool) -> Tensor:
    return values[:, None, None] if conv else values


def _low_rank(module: nn.Module, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """up(down(x)), up with the scale in it."""
    if not isinstance(module, nn.Conv2d):
        return joined_lora(x, down, up, x.new_ones(()))
    hidden = F.conv2d(x, down, None, module.stride, module.padding, module.dilation)
    return torch.matmul(up.flatten(1), hidden.flatten(2)).unflatten(2, hidden.shape[2:])


def _tensors(
    module: nn.Module, x: Tensor, update: Update, magnitude: Magnitude, dtype: torch.dtype, cache: Cache
) -> tuple[Tensor, ...]:
    """down, up with scale and factors, factors - 1, and bias; the lengths from the cache."""
    device, weights = x.device, update.weights
    what = (id(weights), update.first, update.last, update.swapped)  # as `products.cached_for` tells them apart
    key = ("dora", *what, device, dtype, torch.is_inference_mode_enabled(), *_state_of(module))
    length, bias = cache(key, lambda: _length_and_bias(module, x, update, magnitude))
    down, up = weights.down.to(device, dtype), update.up().to(device, dtype) * weights.scale
    factor = magnitude.values.to(device, dtype) / length
    if not magnitude.by_input:
        up = up * factor.reshape(-1, *[1] * (up.ndim - 1))
    return down, up, factor - 1, bias


def _state_of(module: nn.Module) -> tuple[WeakIdRef, int]:
    """Changes when the weight that the layer holds is exchanged, or changed in place.

    A weak reference: a new weight may get the address of an old one, and the cache must not hold what is unloaded.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    return WeakIdRef(weight), 0 if weight.is_inference() else weight._version


@torch.no_grad()
def _length_and_bias(module: nn.Module, x: Tensor, update: Update, magnitude: Magnitude) -> tuple[Tensor, Tensor]:
    """What the magnitudes are divided by, and the bias of the update's outputs."""
    weight, bias = own_weight(module, x)
    rows = slice(update.first, update.last)
    weight, down, up = weight[rows], update.weights.down.to(weight), update.up().to(weight)
    bias = weight.new_zeros(()) if bias is None else bias[rows].to(weight)
    if magnitude.merged:
        weight = weight + (update.weights.scale * up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    lengths = weight.transpose(0, 1) if magnitude.by_input else weight
    return lengths.flatten(1).norm(dim=1) + torch.finfo(torch.float32).eps, bias.expand(len(weight))
