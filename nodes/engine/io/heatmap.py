"""A map as a picture: people would rather look than read."""

from __future__ import annotations

import torch
from torch import Tensor

# Dark blue (low) over magenta to yellow (high): reads in grey too, since it only gets lighter.
_STOPS = ((0.05, 0.03, 0.30), (0.50, 0.05, 0.60), (0.90, 0.30, 0.35), (1.00, 0.90, 0.30))


def heat(values: Tensor) -> Tensor:
    """A map `[H,W]` as colours `[1,3,H,W]` in 0..1, stretched to its own range."""
    values = values.float().cpu()
    x = (values - values.min()) / (values.max() - values.min()).clamp_min(1e-6)
    stops = torch.tensor(_STOPS)
    place = x * (len(stops) - 1)
    low = place.floor().long().clamp(0, len(stops) - 2)
    return torch.lerp(stops[low], stops[low + 1], (place - low)[..., None]).permute(2, 0, 1)[None]


def overlay(image: Tensor, values: Tensor) -> Tensor:
    """A map `[H,W]` laid over its picture `[1,3,H,W]`; on the CPU."""
    return image.float().cpu() * 0.45 + heat(values) * 0.55
