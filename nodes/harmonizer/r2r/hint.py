"""What the Harmony Controller is given: the foreground's edges amid its surroundings, the composite, the mask.

The edges are drawn at the picture's own size and resized with it, as the published weights were trained.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .canny import canny

_WEIGHTS = (3735, 19235, 9798)  # of R, G, B in 15 fractional bits: OpenCV's for B, G, R, as the weights were trained


def hint_of(composite: Tensor, mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The hint `[B,7,h,w]` at a size, of a composite `[B,3,H,W]` in 0..1 and a mask `[B,1,H,W]`, float32.

    Channels 0 to 2: the edge map, -1..1; 3 to 5: the composite, -1..1; 6: the mask, 0 or 1.
    """
    edges = resized(edge_map(composite, mask), size)
    return torch.cat([edges * 2 - 1, resized(composite, size) * 2 - 1, resized_mask(mask, size)], 1)


def edge_map(composite: Tensor, mask: Tensor) -> Tensor:
    """The composite outside the mask, inside it the foreground's Canny edges (100, 200) on white, `[B,3,H,W]` in 0..1.

    The foreground stands on white, so its outline is among the edges; grey weights red with blue's share and the other
    way round.
    """
    inside = mask >= 0.5
    foreground = torch.where(inside, composite, torch.ones((), device=composite.device, dtype=composite.dtype))
    edges = [torch.from_numpy(canny(_swapped_grey(picture))) for picture in foreground]
    drawn = torch.stack(edges)[:, None].to(composite) / 255
    return torch.where(inside, drawn.expand_as(composite), composite)


def _swapped_grey(picture: Tensor) -> np.ndarray:
    """`[3,H,W]` in 0..1 as grey levels uint8 `[H,W]`, rounded as OpenCV does."""
    levels = (picture.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.int64)
    weights = torch.tensor(_WEIGHTS)[:, None, None]
    return (((levels * weights).sum(0) + (1 << 14)) >> 15).to(torch.uint8).numpy()


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialiasing, float32; as it is at its own size."""
    if tuple(picture.shape[-2:]) == size:
        return picture.float()
    return F.interpolate(picture.float(), size, mode="bilinear", antialias=True)


def resized_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """0 or 1, cut at 0.5, by the nearest pixel, float32."""
    return F.interpolate((mask >= 0.5).float(), size, mode="nearest")


def latent_mask(mask: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A mask `[B,1,H,W]` at the latent's size, 0 or 1: by way of the working size, as published.

    Where that loses a thin mask altogether, each place of the latent that it touches.
    """
    small = resized_mask(resized_mask(mask, size), grid)
    touched = F.adaptive_max_pool2d((mask >= 0.5).float(), grid)
    return torch.where(small.flatten(1).any(1)[:, None, None, None], small, touched)
