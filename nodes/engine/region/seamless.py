"""A region that keeps its differences and meets the picture's colours at its border (Perez, Gangnet, Blake 2003)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ....kernels import poisson_blend


def seamless(worked: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """The differences of `worked` in the picture, both `[B,3,H,W]` in 0..1, where the mask `[B,1,H,W]` is above 0.5.

    No difference across the border counts: what lies beside the region in `worked` is not looked at. In 0..1; equal to
    the picture bit for bit outside the mask. A region without a border, the whole picture, gets its mean colour.
    """
    return poisson_blend(grown_foreground(worked, mask), picture, mask).clamp(0, 1)


def grown_foreground(composite: Tensor, mask: Tensor) -> Tensor:
    """The composite, its foreground grown by one pixel: what is beside it gets the mean of its neighbours inside."""
    inside = (mask > 0.5).to(composite)
    cross = composite.new_tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).expand(4, 1, 3, 3)
    around = F.conv2d(F.pad(torch.cat([composite * inside, inside], 1), [1] * 4), cross, groups=4)
    beside = (inside == 0) & (around[:, 3:] > 0)
    return torch.where(beside, around[:, :3] / around[:, 3:].clamp_min(1), composite)
