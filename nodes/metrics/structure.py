"""CFSD: how much the self-similarity of a picture's content changed (Chung et al., arXiv:2312.09008)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .checks import check_pair

# From images `[B,3,H,W]` in 0..1 to one feature map `[B,C,h,w]`; published: the rectified conv3_1 of VGG-19.
FeatureMap = Callable[[Tensor], Tensor]
REDUCTIONS = ("mean", "sum")
ROWS = 1024  # of the similarity matrix held at a time


def cfsd(features: FeatureMap, result: Tensor, source: Tensor, reduction: str = "mean") -> Tensor:
    """Content feature structural distance per picture, `[B]`.

    S(x) = softmax over columns of F F^T with F `[hw,C]` the features over C; CFSD = the mean over rows of
    KL(S(source) || S(result)), as the paper writes it. reduction "sum": the sum over rows, which is what the authors'
    published program returns.
    """
    check_pair(result, source)
    if reduction not in REDUCTIONS:
        raise wrong_input("reduction", repr(reduction), ", ".join(REDUCTIONS), "Choose one of these.")
    with torch.no_grad():
        pairs = zip(result.split(1), source.split(1), strict=True)
        rows = [_divergence(features(a.float()), features(b.float())) for a, b in pairs]
    return torch.stack([row.mean() if reduction == "mean" else row.sum() for row in rows]).double()


def _divergence(result: Tensor, source: Tensor) -> Tensor:
    """KL(S(source) || S(result)) per row, `[hw]`, of feature maps `[1,C,h,w]`.

    Some rows at a time: the whole matrix of a 512 px picture would take a gigabyte.
    """
    a, b = _flat(result), _flat(source)
    return torch.cat([_rows(a, b, part) for part in torch.arange(len(a), device=a.device).split(ROWS)])


def _flat(features: Tensor) -> Tensor:
    return features[0].flatten(1).T / features.shape[1]


def _rows(result: Tensor, source: Tensor, part: Tensor) -> Tensor:
    log_result = F.log_softmax(result[part] @ result.T, dim=1)
    log_source = F.log_softmax(source[part] @ source.T, dim=1)
    return (log_source.exp() * (log_source - log_result)).sum(1)


def edge_correlation(result: Tensor, source: Tensor, sigma: float = 4.0) -> Tensor:
    """How far a result has its edges where its source has them, per picture `[B]`: -1 to 1, 1 for the same edges.

    Pearson's correlation of the gradient magnitudes of both pictures' mean colour, each smoothed with a Gaussian of
    `sigma` pixels, so that a style's own texture (dots, tiles, strokes) counts little. A flat picture gives 0.
    """
    check_pair(result, source)
    a, b = (_edges(images.double(), sigma).flatten(1) for images in (result, source))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-12)


def _edges(images: Tensor, sigma: float) -> Tensor:
    """Gradient magnitude of smoothed pictures `[B,3,H,W]`, `[B,H-1,W-1]`."""
    radius = max(1, round(3 * sigma))
    at = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    gray = F.pad(images.mean(1, keepdim=True), (radius,) * 4, mode="replicate")
    smooth = F.conv2d(F.conv2d(gray, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
    return torch.hypot(smooth.diff(dim=1)[:, :, 1:], smooth.diff(dim=2)[:, 1:])
