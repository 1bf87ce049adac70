"""Channel modulation inside a mask (R2R, arXiv:2508.09746, mask-aware adaptive channel attention)."""

from torch import Tensor

from ._checks import check_device, check_float, check_mask, check_shapes, promote


def modulate_reference(x: Tensor, scale: Tensor, shift: Tensor, mask: Tensor) -> Tensor:
    """`modulate` by its definition. For reading and testing."""
    dtype, (x, scale, shift, mask) = x.dtype, promote(x, scale, shift, mask)
    inside = x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return (mask * inside + (1 - mask) * x).to(dtype)


def modulate(x: Tensor, scale: Tensor, shift: Tensor, mask: Tensor) -> Tensor:
    """mask * (x * (1 + scale) + shift) + (1 - mask) * x.

    x `[B,C,H,W]`, scale and shift `[B,C]`, mask `[B,1,H,W]` in 0..1. Returns `[B,C,H,W]` in x's dtype, bit-equal to x
    where the mask is 0. Differentiable in all four. For binary masks this is the output of R2R's mask-aware channel
    attention. Raises ValueError on shapes that disagree.
    """
    check_shapes(x=(x, "B C H W"), scale=(scale, "B C"), shift=(shift, "B C"), mask=(mask, "B 1 H W"))
    check_float(x=x, scale=scale, shift=shift)
    check_mask(mask=mask)
    check_device(x=x, mask=mask)
    dtype, (x, scale, shift, mask) = x.dtype, promote(x, scale, shift, mask)
    # The same formula with x taken out of both terms: half the temporaries, and nothing but x where mask is 0.
    return (x + mask * (x * scale[:, :, None, None] + shift[:, :, None, None])).to(dtype)
