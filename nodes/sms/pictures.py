"""Pictures about a run: how the result came about, and its losses as curves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.io.curves import loss_panel
from .generator.training import DistillHistory
from .optimise import History

CURVES = (("style", (200, 60, 40)), ("content", (40, 110, 200)), ("fake", (60, 150, 70)))


def strip(frames: Sequence[Tensor], height: int = 192) -> Tensor:
    """Frames `[3,h,w]` side by side, each `height` pixels high: `[3,height,W]` in 0..1."""
    scaled = [
        F.interpolate(f[None], scale_factor=height / f.shape[-1 - 1], mode="bilinear", antialias=True)[0]
        for f in frames
    ]
    return torch.cat([s[:, :height] for s in scaled], -1).clamp(0, 1)


def curves(history: History | DistillHistory) -> Tensor:
    """One panel per loss over the iterations, with its smallest and largest value: `[3,H,W]` in 0..1."""
    return torch.cat([loss_panel(name, getattr(history, name), colour) for name, colour in CURVES], 1)
