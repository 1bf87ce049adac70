"""Learned perceptual distance (LPIPS, Zhang et al., arXiv:1801.03924, equation 1) over any feature network.

d(x, y) = sum over layers of the spatial mean of w_l . (phi_l(x) - phi_l(y))^2, the features normalised over channels.
The published metric brings its own features and weights w (`public_networks.py`); a stand-in without learnt weights
takes the mean over channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..checks import check_mask, check_not_empty, check_pair

# From images `[B,3,H,W]` in 0..1 to feature maps `[B,C_l,h_l,w_l]`.
Features = Callable[[Tensor], Sequence[Tensor]]
EPSILON = 1e-10


@dataclass(frozen=True)
class PerceptualDistance:
    """features: the feature network; backbone: its name; weights: per layer `[C_l]` not negative, None: 1 / C_l."""

    features: Features
    backbone: str
    weights: Sequence[Tensor] | None = None

    def layers(self, result: Tensor, source: Tensor) -> list[Tensor]:
        """The weighted squared difference per layer, `[B,1,h_l,w_l]`."""
        check_pair(result, source)
        # one memory layout, or equal pictures would differ in the last digits
        a, b = result.float().contiguous(), source.float().contiguous()
        with torch.no_grad():
            pairs = list(zip(self.features(a), self.features(b), strict=True))
        return [_layer(a, b, None if self.weights is None else self.weights[i]) for i, (a, b) in enumerate(pairs)]

    def __call__(self, result: Tensor, source: Tensor) -> Tensor:
        """The distance per picture, `[B]`."""
        return torch.stack([layer.mean((1, 2, 3)) for layer in self.layers(result, source)]).sum(0).double()

    def map(self, result: Tensor, source: Tensor) -> Tensor:
        """The distance per pixel, `[B,H,W]`: each layer enlarged bilinearly, then summed (LPIPS' spatial form)."""
        size = result.shape[-2:]
        return sum(
            F.interpolate(layer, size, mode="bilinear", align_corners=False)[:, 0]
            for layer in self.layers(result, source)
        )  # type: ignore[return-value]

    def masked(self, result: Tensor, source: Tensor, mask: Tensor, side: str = "region") -> Tensor:
        """The map's mean weighted by a mask `[B,H,W]`, `[B]`. RegionStyleError when a mask is empty."""
        weight = check_mask(mask, result).double()
        check_not_empty(weight, side)
        return (self.map(result, source).double() * weight).sum((1, 2)) / weight.sum((1, 2))


def _layer(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
    difference = (_unit(a) - _unit(b)).square()
    if weights is None:
        return difference.mean(1, keepdim=True)
    return (difference * weights.to(difference)[:, None, None]).sum(1, keepdim=True)


def _unit(features: Tensor) -> Tensor:
    """Features of length 1 over the channels, 0 where they are 0."""
    return features / (features.square().sum(1, keepdim=True).sqrt() + EPSILON)
