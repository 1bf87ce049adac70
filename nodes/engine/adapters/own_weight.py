"""A layer's own weight and bias, as it computes with them: cast, dequantised, fetched, with ordinary LoRAs merged.

Plain layers are read. Others are asked, since quantised formats, offloading and merged patches are the host's business:
a Linear of whatever kind gives its weight when it is run on the unit vectors, a Conv2d hands its weight to
`_conv_forward`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RegionStyleError

_UNIT_VECTORS = 512  # of a Linear's inputs at once


@torch.no_grad()
def own_weight(module: Any, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """weight `[O,I]` or `[O,I,kh,kw]`, in float32 or better, and bias `[O]` or None, of a Linear or Conv2d for input x.

    What else wraps the layer's forward is passed by. RegionStyleError for weights that are elsewhere.
    """
    if is_plain(module, x):
        return module.weight.detach().to(_precise(x)), None if module.bias is None else module.bias.detach()
    weight, bias = _of_convolution(module, x) if isinstance(module, nn.Conv2d) else _of_linear(module, x)
    if weight.device != x.device:
        raise RegionStyleError(
            f"DoRA: got a {type(module).__name__} whose weight is on {weight.device}, expected it where its input is, "
            f"on {x.device}, or fetched by the layer itself. Load the model whole, or use a LoRA."
        )
    return weight, bias


def is_plain(module: Any, x: Tensor) -> bool:
    """Whether a layer's forward is torch's own with the tensor that it holds."""
    weight = module.weight
    as_it_is = type(weight.data) is Tensor and weight.dtype == x.dtype and weight.device == x.device
    fetched = getattr(module, "comfy_cast_weights", False) or getattr(module, "scale_weight", None) is not None
    patched = getattr(module, "weight_function", None) or getattr(module, "bias_function", None)
    return as_it_is and isinstance(module, nn.Linear | nn.Conv2d) and not fetched and not patched


def own_output(module: nn.Module, x: Tensor) -> Tensor:
    """What the layer gives by itself, whatever wraps its forward."""
    return type(module).forward(module, x)  # type: ignore[no-any-return]


def _of_linear(module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    inputs = module.in_features
    bias = own_output(module, x.new_zeros(1, inputs)).to(_precise(x))
    columns = []
    for first in range(0, inputs, _UNIT_VECTORS):
        unit = x.new_zeros(min(_UNIT_VECTORS, inputs - first), inputs)
        unit.diagonal(first).fill_(1)
        columns.append(own_output(module, unit).to(_precise(x)) - bias)
    return torch.cat(columns).T, bias[0]


def _of_convolution(module: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor | None]:
    seen: list[Any] = []

    def look(x: Tensor, weight: Tensor, bias: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
        seen.append((weight.to(_precise(x), copy=True), None if bias is None else bias.clone()))
        return x

    module.__dict__["_conv_forward"] = look
    try:
        own_output(module, x[:1])
    finally:
        del module.__dict__["_conv_forward"]
    return seen[0]  # type: ignore[no-any-return]


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
