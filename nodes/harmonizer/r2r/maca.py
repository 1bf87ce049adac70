"""Mask-aware adaptive channel attention (R2R, arXiv:2508.09746): the background's statistics modulate the foreground.

    p_f = mean(W1 (m x)),  p_b = mean(W2 ((1-m) x)),  (gamma, beta) = MLP([p_f; p_b]),  out = x + m (gamma x + beta)

The means run over all positions, so both grow with their side's share of the picture. W1 and W2 are linear without
bias: applied to the means they are one product of matrix and vector instead of a convolution over the whole map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ....kernels import masked_pool, modulate


class Maca(nn.Module):
    """Features `[B,C,h,w]` and a binary mask `[B,1,h,w]` -> `[B,C,h,w]`, bit-equal where the mask is 0; the identity
    at first and where a mask is empty."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * channels, 3 * channels), nn.SiLU(), nn.Linear(3 * channels, 2 * channels)
        )
        for parameter in self.mlp[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, mask: Tensor, background: Tensor | None = None) -> Tensor:
        """background `[B or 1,C]`: means of the background's features to use in place of x's own (`background_of`)."""
        inside, outside = masked_pool(x, mask, over="all").unbind(1)
        if background is not None:
            outside = background.to(x).expand_as(outside)
        pooled = torch.cat([_linear(self.conv1, inside), _linear(self.conv2, outside)], 1)
        scale, shift = self.mlp(pooled).chunk(2, 1)
        return modulate(x, scale, shift, mask)


def background_of(x: Tensor, region: Tensor, share: Tensor) -> Tensor:
    """Means `[B,C]` of a reference's features over a region `[1,1,h,w]`, as they would be if it filled the `share`
    `[B]` of the picture that is background there: the network has learnt means that shrink with that share."""
    return share[:, None].to(x) * masked_pool(x, region)[:, 0]


def _linear(conv: nn.Conv2d, pooled: Tensor) -> Tensor:
    return F.linear(pooled, conv.weight.flatten(1))
