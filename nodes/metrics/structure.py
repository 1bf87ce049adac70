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
        pairs = zip(result.split(1), source.split(1), strict=True)  # [hw,hw] each: one picture at a time
        rows = [_divergence(features(a.float()), features(b.float())) for a, b in pairs]
    return torch.stack([row.mean() if reduction == "mean" else row.sum() for row in rows]).double()


def _divergence(result: Tensor, source: Tensor) -> Tensor:
    """KL(S(source) || S(result)) per row, `[hw]`, of feature maps `[1,C,h,w]`."""
    log_result, log_source = _log_similarity(result), _log_similarity(source)
    return (log_source.exp() * (log_source - log_result)).sum(1)


def _log_similarity(features: Tensor) -> Tensor:
    flat = features[0].flatten(1).T / features.shape[1]
    return F.log_softmax(flat @ flat.T, dim=1)
