"""Several LoRA experts in one product, gated per sample or per token (RegionRoute's mixture, arXiv:2602.19254)."""

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


@full_precision
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
    dtype = x.dtype
    x, down, up, gate, scale = promote(x, down, up, gate, scale)
    hidden = (x @ down.flatten(0, 1).T).unflatten(-1, down.shape[:2])
    weight = gate * scale
    hidden = hidden * (weight[:, None] if gate.ndim == 2 else weight)[..., None]
    return (hidden.flatten(-2) @ up.transpose(1, 2).flatten(0, 1)).to(dtype)
