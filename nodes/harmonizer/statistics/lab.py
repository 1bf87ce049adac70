"""CIELAB from sRGB and back (CIE 15, white point D65)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.jitter import coded_from_light, light_from_coded

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_EDGE = 6 / 29


def lab_from_rgb(colours: Tensor) -> Tensor:
    """`[N,3]` sRGB in 0..1 -> L in 0..100, a and b."""
    xyz = light_from_coded(colours) @ colours.new_tensor(_XYZ).T / colours.new_tensor(_WHITE)
    f = torch.where(xyz > _EDGE**3, xyz.clamp_min(_EDGE**3) ** (1 / 3), xyz / (3 * _EDGE**2) + 4 / 29)
    return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def rgb_from_lab(colours: Tensor) -> Tensor:
    """The inverse of `lab_from_rgb`, not clamped."""
    y = (colours[:, 0] + 16) / 116
    f = torch.stack([y + colours[:, 1] / 500, y, y - colours[:, 2] / 200], 1)
    xyz = torch.where(f > _EDGE, f**3, 3 * _EDGE**2 * (f - 4 / 29)) * colours.new_tensor(_WHITE)
    return coded_from_light(xyz @ torch.linalg.inv(colours.new_tensor(_XYZ)).T)
