"""Magnitudes of DoRA layers: how long the rows (or columns) of a weight are once the update is added.

DoRA (Liu et al., arXiv:2402.09353, equation 5) takes a weight apart into directions and magnitudes; the magnitudes are
learnt beside the low-rank update of the directions. Two layouts are in use, and their readers divide by other lengths:

- `dora_scale` (LyCORIS, kohya's scripts, OneTrainer): one number per output row, `[O,1]` or `[O,1,1,1]`, or per input
  column, `[1,I]` or `[1,I,1,1]`. Read as ComfyUI 0.33's own LoRA loader reads it (`weight_decompose`): rows are divided
  by the length they have without the update, columns by the length with it. The paper and LyCORIS take the length
  with the update for both.
- `lora_magnitude_vector` (PEFT, diffusers): one number per output row, `[O]` or `[1,O,1,1]`, divided by the length with
  the update, as PEFT does. ComfyUI's own loader passes over these keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import wrong_input


@dataclass(frozen=True, eq=False)
class Magnitude:
    """values `[O]`, one per output, or with `by_input` `[I]`, one per input (channel).

    merged: they replace the lengths of weight + update, otherwise those of the weight alone.
    """

    values: Tensor
    by_input: bool = False
    merged: bool = True

    def rows(self, rows: slice | None, swapped: bool, name: str) -> Magnitude:
        """The share of some output rows, in which the halves may stand in the other order.

        RegionStyleError naming the layer for columns of a layer that is several of diffusers' layers at once: their
        lengths are those of all of them together.
        """
        if self.by_input:
            if rows is None:
                return self
            got, accepts = f"DoRA by input columns in {name}, which computes several projections", "DoRA by output rows"
            raise wrong_input("LoRA file", got, accepts, "Train it with wd_on_output, or use a LoRA.")
        values = self.values if rows is None else self.values[rows]
        return replace(self, values=values.roll(len(values) // 2, 0) if swapped else values)


def dora_scale(name: str, tensor: Tensor, outputs: int) -> Magnitude:
    """LyCORIS' tensor of a layer with so many outputs; RegionStyleError naming the layer for another shape."""
    if len(tensor) == tensor.numel() == outputs:
        return Magnitude(tensor.flatten(), merged=False)
    if tensor.ndim > 1 and tensor.shape[0] == 1 and tensor.shape[1] == tensor.numel():
        return Magnitude(tensor.flatten(), by_input=True)
    accepts = f"[{outputs},1], a number for each output, or [1,I], one for each input"
    raise _misshapen(f"dora_scale of {name}", tensor, accepts)


def magnitude_vector(name: str, tensor: Tensor, outputs: int) -> Magnitude:
    """PEFT's tensor of a layer with so many outputs; RegionStyleError naming the layer for another shape."""
    if max(tensor.shape) == tensor.numel() == outputs:
        return Magnitude(tensor.flatten())
    raise _misshapen(f"lora_magnitude_vector of {name}", tensor, f"[{outputs}], a number for each output")


def _misshapen(what: str, tensor: Tensor, accepts: str) -> Exception:
    return wrong_input(f"LoRA file, {what}", list(tensor.shape), accepts, "Use another file; nothing was loaded.")
