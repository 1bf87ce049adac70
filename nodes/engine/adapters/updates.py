"""The update that an expert has for one layer of a network, and whether it fits the layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import wrong_input
from ..families.layers import LayerSlice, is_linear
from ..lora.magnitude import Magnitude
from .weights import LoraWeights


@dataclass(eq=False)
class Update:
    """An expert's tensors at their place in a layer.

    first, last (exclusive): the output rows they act on; swapped: the layer has the two halves of these rows in the
    other order.
    """

    expert: str
    weights: LoraWeights
    first: int
    last: int
    swapped: bool = False

    @property
    def rank(self) -> int:
        return len(self.weights.down)

    @property
    def decomposed(self) -> bool:
        """Whether it is a DoRA layer's."""
        return self.weights.magnitudes is not None

    @property
    def magnitude(self) -> Magnitude | None:
        """Of a DoRA layer, with those of its rows in the layer's order."""
        magnitude = self.weights.magnitude
        return magnitude.rows(None, self.swapped, self.expert) if magnitude is not None else None

    def up(self) -> Tensor:
        """up with its rows in the layer's order."""
        up = self.weights.up
        return up.roll(len(up) // 2, 0) if self.swapped else up


def new_update(expert: str, path: str, weights: LoraWeights, place: LayerSlice, module: nn.Module) -> Update:
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
        weights.down.data = _as_kernel(weights.down.data, inputs)
        weights.up.data = weights.up.data[..., None, None] if weights.up.ndim == 2 else weights.up.data
    else:
        raise wrong_input(name, f"a {type(module).__name__}", "Linear or Conv2d", "Use an expert without this layer.")
    rows = range(outputs)[place.rows or slice(None)][weights.rows or slice(None)]
    if list(weights.down.shape[1:]) != inputs or weights.up.shape[0] != len(rows):
        got = f"down {list(weights.down.shape)} and up {list(weights.up.shape)}"
        accepts = f"{inputs} inputs and {len(rows)} outputs"
        raise wrong_input(name, got, accepts, "Use experts trained for this kind of model.")
    magnitude = weights.magnitude
    if magnitude and len(magnitude.values) != (inputs[0] if magnitude.by_input else len(rows)):
        got = f"DoRA magnitudes {list(magnitude.values.shape)} by {'input' if magnitude.by_input else 'output'}"
        raise wrong_input(name, got, f"{inputs[0]} inputs or {len(rows)} outputs", "Use another file.")
    return Update(expert, weights, rows.start, rows.stop, place.swapped)


def _as_kernel(down: Tensor, inputs: list[int]) -> Tensor:
    """down `[R,I]` or `[R,I*k*k]` as a convolution's `[R,I,k,k]`; what does not fit stays."""
    if down.ndim != 2:
        return down
    flat = math.prod(inputs)
    return down.reshape(len(down), *inputs) if down.shape[1] == flat else down[..., None, None]
