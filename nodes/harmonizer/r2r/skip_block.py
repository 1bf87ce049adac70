"""A residual block of the Clear-VAE's decoder, with the filtered encoder feature it takes in.

    a = SiLU(norm1(x));  u = conv1(a) + W (a + rep(AF(h)));  y = shortcut(x) + conv2(SiLU(norm2(u)))

W is a 1 x 1 convolution without bias, zero at first; rep repeats the channels of a feature that has half as many.
The folded form is exact: W acts on a like a centre tap of conv1, and since the filter's kernel is the same for all
channels it commutes with W, whose halves may be summed where the feature is repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .adaptive_filter import AdaptiveFilter

DROPOUT = 0.1  # of what W adds, while training


class SkipConnect(nn.Module):
    """W of one block."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        nn.init.zeros_(self.conv.weight)


def run_block(block: Any, x: Tensor, features: list[Tensor], filter: AdaptiveFilter, *, folded: bool) -> Tensor:
    """x `[B,C,h,w]` through a `ResnetBlock2D` with a `skip_connect`, which takes the last feature out of the list; with
    an empty list, the plain block."""
    a = _activated(block.norm1(x))
    if not features:
        u = block.conv1(a)
    elif folded:
        u = _folded(block, a, features, filter)
    else:
        u = _unfolded(block, a, features.pop(), filter)
    del a
    y = block.conv2(block.dropout(_activated(block.norm2(u))))
    del u
    return (x if block.conv_shortcut is None else block.conv_shortcut(x)) + y


def _unfolded(block: Any, a: Tensor, feature: Tensor, filter: AdaptiveFilter) -> Tensor:
    filtered = filter(feature)
    if filtered.shape[1] != a.shape[1]:
        filtered = torch.cat([filtered, filtered], 1)
    branch = block.skip_connect.conv(a + filtered)
    return block.conv1(a) + F.dropout(branch, DROPOUT, block.training)


def _folded(block: Any, a: Tensor, features: list[Tensor], filter: AdaptiveFilter) -> Tensor:
    feature = features.pop()  # nobody else holds it: it is freed before the largest tensors are made
    weight = block.skip_connect.conv.weight
    channels = feature.shape[1]
    effective = weight if channels == weight.shape[1] else weight[:, :channels] + weight[:, channels:]
    if effective.shape[0] <= channels:  # the filter runs on the side with fewer channels
        projected = F.conv2d(feature, effective)
        del feature
        return filter.add_to(_with_centre(block, a, weight), projected)
    return _with_centre(block, a, weight) + F.conv2d(filter(feature), effective)


def _with_centre(block: Any, a: Tensor, weight: Tensor) -> Tensor:
    """conv1 with W added to its centre tap."""
    kernel = block.conv1.weight + F.pad(weight, [1] * 4)
    return F.conv2d(a, kernel, block.conv1.bias, padding=1)


def _activated(x: Tensor) -> Tensor:
    return F.silu(x, inplace=not (torch.is_grad_enabled() and x.requires_grad))
