"""The adaptive filter of the Clear-VAE's skip connections (R2R, arXiv:2508.09746)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import check_float, check_shapes, full_precision, promote, require

# 0.001 rounded to half precision: what the published weights were trained with.
_STEP = 0.0010004043579101562

_BANK = (
    (1, 0, -1, 2, 0, -2, 1, 0, -1),  # Sobel x
    (1, 2, 1, 0, 0, 0, -1, -2, -1),  # Sobel y
    (0, 1, 0, 1, -4, 1, 0, 1, 0),  # Laplace
    (-1, -1, -1, -1, 8, -1, -1, -1, -1),  # edge
    (0, 1, 2, -1, 0, 1, -2, -1, 0),  # Sobel xy
    (-2, -1, 0, -1, 0, 1, 0, 1, 2),  # Sobel yx
    (1, 0, 0, 0, -1, 0, 0, 0, 0),  # Roberts x
    (0, 1, 0, -1, 0, 0, 0, 0, 0),  # Roberts y
)
_RADIUS, _SIGMA = 7, 5.0


def adaptive_filter_reference(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """`adaptive_filter` as nine separate filters, the Gaussian as one 15 x 15 kernel. For reading and testing."""
    dtype, (x, alpha, beta) = x.dtype, promote(x, alpha, beta)
    planes = x.flatten(0, 1)[:, None]
    total = beta * planes
    for weight, integers in zip(alpha[:8], _BANK, strict=True):
        kernel = _STEP * torch.tensor(integers, dtype=x.dtype, device=x.device).view(1, 1, 3, 3)
        total = total + weight * F.conv2d(planes, kernel, padding=1)
    g = _gaussian(x)
    blurred = F.conv2d(F.pad(planes, [_RADIUS] * 4, mode="reflect"), torch.outer(g, g)[None, None])
    return (total + alpha[8] * (planes - blurred)).view_as(x).to(dtype)


@full_precision
def adaptive_filter(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Sum of alpha[i] * (K_i * x) over eight 3 x 3 edge filters, alpha[8] * (x - G * x), and beta * x.

    x `[B,C,H,W]` with H, W >= 8 (the Gaussian reflects 7 pixels), alpha `[9]`, beta `[1]`, shared by all channels.
    Returns `[B,C,H,W]` in x's dtype. The 3 x 3 kernels (zero padding, correlation) carry the factor
    fp16(0.001) = 0.0010004043579101562; G is a 15 x 15 Gaussian of sigma 5. All terms but G fold into one 3 x 3
    kernel; G is separable. Differentiable in all three.

    Raises ValueError on wrong shapes or a side below 8.
    """
    sizes = check_shapes(x=(x, "B C H W"), alpha=(alpha, "9"), beta=(beta, "1"))
    check_float(x=x, alpha=alpha, beta=beta)
    fits = min(sizes["H"], sizes["W"]) > _RADIUS and sizes["C"] > 0
    require(fits, f"x must have H, W >= {_RADIUS + 1} and a channel, got {list(x.shape)}")
    dtype, (x, alpha, beta) = x.dtype, promote(x, alpha, beta)
    local = _depthwise(F.pad(x, [1] * 4), _fold(alpha, beta).view(3, 3))
    g = _gaussian(x)
    padded = F.pad(x, [_RADIUS] * 4, mode="reflect")
    blurred = _depthwise(_depthwise(padded, g[None]), g[:, None])
    return (local - alpha[8] * blurred).to(dtype)


def _fold(alpha: Tensor, beta: Tensor) -> Tensor:
    """The 3 x 3 kernel `[9]` of every term but the Gaussian."""
    bank = torch.tensor(_BANK, dtype=alpha.dtype, device=alpha.device) * _STEP
    centre = torch.zeros_like(bank[0])
    centre[4] = 1
    return alpha[:8] @ bank + (alpha[8] + beta) * centre


def _gaussian(x: Tensor) -> Tensor:
    """The normalised 1-D Gaussian `[15]`."""
    offset = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64)
    g = torch.exp(-0.5 * (offset / _SIGMA) ** 2)
    return (g / g.sum()).to(x.device, x.dtype)


def _depthwise(x: Tensor, kernel: Tensor) -> Tensor:
    """Correlate each channel with the same kernel `[kh,kw]`, without padding."""
    # In this layout a GPU uses torch's own kernel; in channels-last, cuDNN's, which may round to TF32.
    return F.conv2d(x.contiguous(), kernel.expand(x.shape[1], 1, *kernel.shape), groups=x.shape[1])
