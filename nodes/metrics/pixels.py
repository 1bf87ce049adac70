"""Pixel metrics: MSE, PSNR, SSIM, foreground and background MSE (R2R, arXiv:2508.09746).

Images `[B,3,H,W]` in 0..1 are brought to the pixel range that is asked for; results are one number per picture,
`[B]` float64.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .checks import check_mask, check_mask_values, check_not_empty, check_pair
from .measurement import BYTES, RANGE_SCALE

WINDOW = 7  # side of scikit-image's default window


def range_scale(pixel_range: str) -> float:
    """How wide a pixel range is; RegionStyleError for one that is not known."""
    if pixel_range not in RANGE_SCALE:
        raise wrong_input("pixel range", repr(pixel_range), ", ".join(RANGE_SCALE), "Choose one of these.")
    return RANGE_SCALE[pixel_range]


def squared_error(result: Tensor, source: Tensor, pixel_range: str = BYTES) -> Tensor:
    """Squared difference, mean over the channels, `[B,H,W]` float64."""
    check_pair(result, source)
    scale = range_scale(pixel_range)
    return ((result.double() - source.double()) * scale).square().mean(1)


def mse(result: Tensor, source: Tensor, pixel_range: str = BYTES) -> Tensor:
    """Mean squared error over all pixels and channels."""
    return squared_error(result, source, pixel_range).mean((1, 2))


def masked_mse(result: Tensor, source: Tensor, mask: Tensor, pixel_range: str = BYTES, side: str = "region") -> Tensor:
    """Mean squared error weighted by a mask `[B,H,W]` in 0..1: sum(mask * error) / sum(mask).

    With the region it is fMSE, with 1 - region bMSE or MSE_bg (RegionRoute). RegionStyleError when a mask is empty.
    """
    error = squared_error(result, source, pixel_range)
    weight = check_mask(mask, result).double()
    check_not_empty(weight, side)
    return (error * weight).sum((1, 2)) / weight.sum((1, 2))


def psnr(result: Tensor, source: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(255^2 / MSE), the same in every range; inf for equal pictures."""
    return psnr_of(mse(result, source, "0..1"))


def psnr_of(error: Tensor) -> Tensor:
    """PSNR in dB of mean squared errors of pixels in 0..1."""
    return -10 * torch.log10(error)


def masked_psnr(result: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """PSNR in dB inside a mask `[B,H,W]` in 0..1 (`masked_mse`); RegionStyleError when a mask is empty."""
    return psnr_of(masked_mse(result, source, mask, "0..1"))


def equal_outside(result: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Whether pictures are equal bit for bit wherever the composited mask `[B,H,W]` is exactly 0, bool `[B]`."""
    check_pair(result, source)
    inside = check_mask(mask, result)[:, None] > 0
    return ((result == source) | inside).flatten(1).all(1)


def ssim(result: Tensor, source: Tensor, data_range: Tensor | float = 1.0) -> Tensor:
    """Structural similarity (Wang et al. 2004) as scikit-image computes it by default.

    7 x 7 uniform window, sample covariance, K1 0.01, K2 0.03, the half window at the frame left out, mean over pixels
    and channels. data_range: of pixels in 0..1, one number or one per picture `[B]`. RegionStyleError for pictures
    smaller than the window or a range that is not positive.
    """
    check_pair(result, source)
    if min(result.shape[-2:]) < WINDOW:
        raise wrong_input("images", f"{result.shape[-1]} x {result.shape[-2]} pixels", "7 x 7 or more", "Enlarge them.")
    width = torch.as_tensor(data_range, dtype=torch.float64, device=result.device).expand(len(result))
    if not bool((width > 0).all()):
        raise wrong_input("data range", width.tolist(), "more than 0", "The pictures are one flat colour; set it to 1.")
    return _ssim_map(result.double(), source.double(), width[:, None, None, None]).mean((1, 2, 3))


def _ssim_map(x: Tensor, y: Tensor, width: Tensor) -> Tensor:
    """The index per window, `[B,3,H-6,W-6]`."""
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    bessel = WINDOW**2 / (WINDOW**2 - 1)
    mx, my = _window_mean(x), _window_mean(y)
    vx, vy = bessel * (_window_mean(x * x) - mx * mx), bessel * (_window_mean(y * y) - my * my)
    vxy = bessel * (_window_mean(x * y) - mx * my)
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def _window_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, WINDOW, stride=1)


def mask_iou(mask: Tensor, truth: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of masks `[B,H,W]` of values in 0..1 cut above a threshold, `[B]`; 1 where both
    are empty. RegionStyleError for other shapes, values or thresholds."""
    if mask.shape != truth.shape or mask.ndim != 3 or 0 in mask.shape:
        got = f"{list(mask.shape)} and {list(truth.shape)}"
        raise wrong_input("masks", got, "two [B,H,W] of one shape", "Resize one of them.")
    check_mask_values(mask, "found mask")
    check_mask_values(truth, "true mask")
    if not 0 <= threshold < 1:
        raise wrong_input("threshold", threshold, "0 to below 1 (values above it are inside)", "0.5 is usual.")
    a, b = mask > threshold, truth > threshold
    union = (a | b).sum((1, 2)).double()
    return torch.where(union > 0, (a & b).sum((1, 2)).double() / union.clamp(min=1), torch.ones_like(union))
