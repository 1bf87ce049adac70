"""The seam between a worked region and the picture around it."""

from __future__ import annotations

import math
from operator import index

import torch
from torch import Tensor

from ..errors import wrong_input


def feather_mask(mask: Tensor, feather: int) -> Tensor:
    """The composited mask: a seam of `feather` pixels around a mask `[...,H,W]`.

    feather > 0 grows outwards: never below the mask, falling as a squared cosine to 0 at `feather` + 1 pixels from it,
    exactly 0 beyond. feather < 0 grows inwards: never above the mask, so nothing outside it changes. 0 keeps it.
    The frame of the picture is no seam. Grown inwards, a region thinner than twice the seam does not reach 1 any more.
    The maximum of products keeps 0 and 1 exact, which a blur would not.
    RegionStyleError for a feather that is no whole number.
    """
    try:
        feather = index(feather)
    except TypeError:
        raise wrong_input("feather", feather, "a whole number of pixels", "0 gives a hard edge.") from None
    if feather < 0:
        return torch.minimum(mask, 1 - feather_mask(1 - mask, -feather))  # 1 - (1 - mask) is not always mask
    return _spread(_spread(mask, feather, -1), feather, -2)


def _spread(mask: Tensor, feather: int, axis: int) -> Tensor:
    """Along one axis, the largest of all neighbours within `feather` pixels, each times its ramp."""
    result, length = mask.clone(), mask.shape[axis]
    for distance, weight in enumerate(_ramp(feather), start=1):
        keep = length - distance
        if keep <= 0:
            break
        near, far = mask.narrow(axis, 0, keep) * weight, mask.narrow(axis, distance, keep) * weight
        result.narrow(axis, distance, keep).copy_(torch.maximum(result.narrow(axis, distance, keep), near))
        result.narrow(axis, 0, keep).copy_(torch.maximum(result.narrow(axis, 0, keep), far))
    return result


def _ramp(feather: int) -> list[float]:
    """The weights at 1 .. `feather` pixels from the mask."""
    return [math.cos(math.pi * d / (2 * (feather + 1))) ** 2 for d in range(1, feather + 1)]


def window_fall(length: int, feather: int, first: bool, last: bool) -> Tensor:
    """Ones `[length]` with a seam of `feather` pixels towards the ends that are asked for (the sides of a window)."""
    result = torch.ones(length)
    for distance, weight in enumerate(reversed(_ramp(feather)[:length])):
        if first:
            result[distance] = torch.minimum(result[distance], torch.tensor(weight))
        if last:
            result[length - 1 - distance] = torch.minimum(result[length - 1 - distance], torch.tensor(weight))
    return result
