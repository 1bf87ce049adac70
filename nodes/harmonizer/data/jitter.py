"""Colour jitter as a camera or an editor makes it: exposure, white balance, saturation, contrast."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Jitter:
    """How far each goes at most: exposure and white balance in stops, saturation and contrast in powers of two."""

    exposure: float = 1.2
    white_balance: float = 0.5
    saturation: float = 0.7
    contrast: float = 0.45
    used: float = 0.75  # how often each of the four takes part


def jittered(images: Tensor, mask: Tensor, random: torch.Generator, jitter: Jitter | None = None) -> Tensor:
    """Images `[B,3,H,W]` in 0..1 with new colours, another change for each; rounded to 8 bits.

    Exposure and white balance act on linear light, saturation and contrast on the coded values, contrast about the
    mean inside the mask `[B,1,H,W]`.
    """
    jitter = jitter or Jitter()
    count = len(images)
    stops = _draw(count, 1, jitter.exposure, jitter, random)
    balance = _draw(count, 3, jitter.white_balance, jitter, random)
    gain = torch.exp2(stops + balance - (balance * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True))
    coded = coded_from_light(light_from_coded(images) * gain)
    grey = luma(coded)
    coded = grey + torch.exp2(_draw(count, 1, jitter.saturation, jitter, random)) * (coded - grey)
    centre = (coded * mask).sum((-2, -1), keepdim=True) / mask.sum((-2, -1), keepdim=True).clamp_min(1e-6)
    centre = centre.mean(1, keepdim=True)
    coded = centre + torch.exp2(_draw(count, 1, jitter.contrast, jitter, random)) * (coded - centre)
    return (coded.clamp(0, 1) * 255).round() / 255


def _draw(count: int, channels: int, reach: float, jitter: Jitter, random: torch.Generator) -> Tensor:
    """Numbers in -reach..reach `[count,channels,1,1]`, 0 where the change does not take part."""
    values = (torch.rand(count, channels, 1, 1, generator=random) * 2 - 1) * reach
    return values * (torch.rand(count, 1, 1, 1, generator=random) < jitter.used)


def luma(images: Tensor) -> Tensor:
    """Y of ITU-R BT.601 `[B,1,H,W]`."""
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def light_from_coded(coded: Tensor) -> Tensor:
    """Linear light from sRGB's coded values (IEC 61966-2-1)."""
    return torch.where(coded <= 0.04045, coded / 12.92, ((coded.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)


def coded_from_light(light: Tensor) -> Tensor:
    """sRGB's coded values from linear light; above 1 the curve goes on."""
    power = 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light <= 0.0031308, light * 12.92, power)
