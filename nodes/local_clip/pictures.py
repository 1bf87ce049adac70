"""The losses of a run as curves."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.io.curves import loss_panel
from .optimise import History

CURVES = (("total", (60, 60, 60)), ("patch", (200, 60, 40)), ("direction", (200, 140, 40)), ("content", (40, 110, 200)))


def curves(history: History) -> Tensor:
    """One panel per term over the iterations, weighted as they add up: `[3,H,W]` in 0..1."""
    return torch.cat([loss_panel(name, getattr(history, name), colour) for name, colour in CURVES], 1)
