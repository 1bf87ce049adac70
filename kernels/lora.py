"""Several LoRA experts in one product, gated per sample or per token.

Source: the low-rank update of Hu et al., LoRA, arXiv:2106.09685, section 4.1; gates per token as RegionRoute's experts,
one per style, are applied to several regions in one pass.
"""

import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_shapes, check_tensor, full_precision, promote, require


def routed_lora_reference(x: Tensor, down: Tensor, up: Tensor, gate: Tensor, scale: Tensor) -> Tensor:
    """`routed_lora` by its definition, one expert after the other. For reading and testing."""
    dtype = x.dtype
    x, down, up, gate, scale = promote(x, down, up, gate, scale)
    total = x.new_zeros(*x.shape[:2], up.shape[1])
    for expert in range(len(down)):
        weight = gate[..., expert].reshape(len(x), -1, 1) * scale[expert]
        total = total + weight * (x @ down[expert].T @ up[expert].T)
    return total.to(dtype)


def routed_lora(x: Tensor, down: Tensor, up: Tensor, gate: Tensor, scale: Tensor) -> Tensor:
    """Sum over experts e of gate_e * scale_e * up_e(down_e(x)).

    x `[B,N,I]`, down `[E,R,I]`, up `[E,O,R]`, gate `[B,E]` (one value per sample) or `[B,N,E]` (one per token),
    scale `[E]` (alpha / rank). Returns `[B,N,O]` in x's dtype; a gate of 0 gives exact zeros. Differentiable in all
    five. The experts are stacked, so the work is two matrix products whatever E is.

    Raises ValueError on shapes that disagree or without an expert.
    """
    check_tensor(gate=gate)
    check_shapes(
        x=(x, "B N I"),
        down=(down, "E R I"),
        up=(up, "E O R"),
        gate=(gate, "B E" if gate.ndim == 2 else "B N E"),
        scale=(scale, "E"),
    )
    check_float(x=x, down=down, up=up, gate=gate, scale=scale)
    require(len(down) > 0, f"down {list(down.shape)} holds no expert")
    gate, scale = promote(gate, scale)
    weight = (gate * scale).repeat_interleave(down.shape[1], -1)
    return joined_lora(
        x, down.flatten(0, 1), up.movedim(0, 1).flatten(1), weight[:, None] if gate.ndim == 2 else weight
    )


@full_precision
def joined_lora(x: Tensor, down: Tensor, up: Tensor, weight: Tensor) -> Tensor:
    """`routed_lora` of experts that were joined before, along their ranks: up(weight * down(x)).

    x `[...,I]`, down `[R,I]`, up `[O,R]`, R being the sum of all ranks, which may differ; weight, broadcast to
    `[...,R]`: each expert's gate (and scale, unless up holds it) once for each of its ranks. Returns `[...,O]` in x's
    dtype, computed in float32 or better. Checks nothing: a network calls it for each of hundreds of small layers.
    """
    dtype = x.dtype
    x, down, up, weight = promote(x, down, up, weight)
    return F.linear(F.linear(x, down) * weight, up).to(dtype)


@full_precision
def add_lora(y: Tensor, x: Tensor, down: Tensor, up: Tensor, weight: float, *, in_place: bool = False) -> Tensor:
    """y + weight * up(down(x)), the sum being part of the second product: one expert at one weight everywhere.

    y `[...,O]`, down `[R,I]` and up `[O,R]` in float32 or float64, all of one dtype; x `[...,I]`, converted to it.
    in_place: y, which must then be contiguous, is changed. Checks nothing, as `joined_lora`.
    """
    hidden = F.linear(x.reshape(-1, x.shape[-1]).to(y.dtype), down)
    flat = y.view(-1, y.shape[-1]) if in_place else y.reshape(-1, y.shape[-1])
    return (flat.addmm_ if in_place else flat.addmm)(hidden, up.T, alpha=weight).view(y.shape)
