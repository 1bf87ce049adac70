"""Noise levels of ComfyUI's sampling objects.

Compared by the functions themselves: a class that overrides one of them is sampled in another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..predictor.schedule import TRAINED_STEPS, FlowSchedule, Schedule, TableSchedule


def table_of(sampling: Any) -> tuple[Schedule, str] | None:
    """Levels and prediction ("eps" or "v") of a sampling object with 1000 trained levels; None for another one."""
    from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete

    denoised = getattr(type(sampling), "calculate_denoised", None)
    noise_or_v = denoised in (EPS.calculate_denoised, V_PREDICTION.calculate_denoised)
    discrete = getattr(type(sampling), "sigma", None) is ModelSamplingDiscrete.sigma
    if not (noise_or_v and discrete and len(sampling.sigmas) == TRAINED_STEPS):
        return None
    with torch.inference_mode(False):
        table = TableSchedule(sampling.sigmas.detach().cpu().double().log())
    return table, "v" if denoised is V_PREDICTION.calculate_denoised else "eps"


def flow_of(sampling: Any, level: Callable[..., Any]) -> tuple[Schedule, str] | None:
    """Levels and prediction ("flow") of a rectified-flow sampling object whose `sigma` is the function `level`."""
    from comfy.model_sampling import CONST

    kind = type(sampling)
    constant = getattr(kind, "calculate_denoised", None) is CONST.calculate_denoised
    own = getattr(kind, "sigma", None) is level and getattr(sampling, "noise_scale", 1) == 1
    return (FlowSchedule(), "flow") if constant and own else None
