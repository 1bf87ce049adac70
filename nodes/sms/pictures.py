"""Pictures about a run: how the result came about, and its losses as curves."""

from __future__ import annotations

import torch
from torch import Tensor

from ..engine.io.curves import loss_panel
from .generator.training import DistillHistory
from .optimise import History

CURVES = (("style", (200, 60, 40)), ("content", (40, 110, 200)), ("fake", (60, 150, 70)))


def curves(history: History | DistillHistory) -> Tensor:
    """One panel per loss over the iterations, with its smallest and largest value: `[3,H,W]` in 0..1."""
    return torch.cat([loss_panel(name, getattr(history, name), colour) for name, colour in CURVES], 1)
