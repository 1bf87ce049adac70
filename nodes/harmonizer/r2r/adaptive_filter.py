"""The adaptive filter of one skip connection of the Clear-VAE: nine weights of edge filters and one of the identity."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....kernels import adaptive_filter
from ....kernels.filters import adaptive_filter_reference

# Values filtered at once while no gradient is needed, which bounds the float32 copies the filter makes: what a CPU's
# cache holds, or enough to keep a GPU busy.
AT_ONCE = {"cpu": 2**20}
AT_ONCE_ELSEWHERE = 2**24


class AdaptiveFilter(nn.Module):
    """alpha `[9]`, all 1 at first, and beta `[1]`, 0 at first: unconstrained, shared by all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(9))
        self.beta = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """x `[B,C,H,W]`, H and W of 8 or more, filtered with the folded kernel."""
        return adaptive_filter(x, self.alpha, self.beta)

    def unfolded(self, x: Tensor) -> Tensor:
        """The same as nine separate filters, as the definition reads."""
        return adaptive_filter_reference(x, self.alpha, self.beta)

    def add_to(self, total: Tensor, x: Tensor) -> Tensor:
        """total + filtered x, a few channels at a time and in place where no gradient is needed."""
        if torch.is_grad_enabled() and any(t.requires_grad for t in (total, x, self.alpha, self.beta)):
            return total + self(x)
        values = AT_ONCE.get(x.device.type, AT_ONCE_ELSEWHERE)
        channels = max(1, values // max(1, x[:, :1].numel()))
        for start in range(0, x.shape[1], channels):
            part = slice(start, start + channels)
            total[:, part] += self(x[:, part])
        return total
