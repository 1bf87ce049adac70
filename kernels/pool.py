"""Means over the two sides of a mask (R2R, arXiv:2508.09746, mask-aware adaptive channel attention)."""

import torch
from torch import Tensor

from ._checks import check_device, check_float, check_mask, check_shapes, full_precision, promote, require


def masked_pool_reference(x: Tensor, mask: Tensor, *, over: str = "area") -> Tensor:
    """`masked_pool` by its definition, sample by sample and side by side. For reading and testing."""
    dtype, (x, mask) = x.dtype, promote(x, mask)
    result = x.new_zeros(x.shape[0], 2, x.shape[1])
    for sample in range(len(x)):
        for side, weight in enumerate((mask[sample], 1 - mask[sample])):
            if weight.sum() > 0:
                area = weight.sum() if over == "area" else weight.numel()
                result[sample, side] = (weight * x[sample]).sum((-2, -1)) / area
    return result.to(dtype)


@full_precision
def masked_pool(x: Tensor, mask: Tensor, *, over: str = "area") -> Tensor:
    """Average x over the inside and the outside of a mask.

    x `[B,C,H,W]`, mask `[B,1,H,W]` in 0..1 (soft or binary). Returns `[B,2,C]` in x's dtype: index 0 is the sum of
    mask * x, index 1 that of (1 - mask) * x, each divided by its side's area (`over="area"`) or by H * W
    (`over="all"`, what R2R's published weights expect). A side of area 0 gives zeros and zero gradients, also to the
    mask. Differentiable in x and mask.

    Raises ValueError on shapes that disagree or an unknown `over`.
    """
    sizes = check_shapes(x=(x, "B C H W"), mask=(mask, "B 1 H W"))
    check_float(x=x)
    check_mask(mask=mask)
    check_device(x=x, mask=mask)
    require(over in ("area", "all"), f"over must be 'area' or 'all', got {over!r}")
    dtype, (x, mask) = x.dtype, promote(x, mask)
    inside = mask.flatten(1)
    sides = torch.stack([inside, 1 - inside], 1)
    area = sides.sum(-1, keepdim=True)
    total = sides @ x.flatten(2).transpose(1, 2)
    # Twice `where`: the division must not see a zero, or its gradient is NaN even where it is not chosen.
    divisor = torch.where(area > 0, area, 1) if over == "area" else sizes["H"] * sizes["W"]
    return torch.where(area > 0, total / divisor, 0).to(dtype)
