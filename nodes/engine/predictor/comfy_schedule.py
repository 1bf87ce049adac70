"""What a ComfyUI MODEL was trained as: its noise levels, what its output means, and the size of its pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input
from .schedule import TRAINED_STEPS, FlowSchedule, Schedule, TableSchedule, like

SUPPORTED = "Supported: SD1.5, SD2 and SDXL (noise or velocity), SD3 and Flux (rectified flow)."
# ComfyUI's detection writes this size for every U-Net, so it says nothing.
UNKNOWN_SIZE = 32
NATIVE_SIZES = {"SD15": 512, "SD20": 512, "SD21UnclipL": 768, "SD21UnclipH": 768}


def comfy_latent(schedule: Schedule, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """ComfyUI's latent and noise level `[B]` of x, both float32."""
    latent, level = x.float(), sigma
    if not isinstance(schedule, FlowSchedule):
        latent, level = latent / like(alpha, x).float(), sigma / alpha
    return latent, level.to(x.device, torch.float32).expand(len(x)).clone()


def schedule_of(model: Any) -> tuple[Schedule, str]:
    """The noise levels of a MODEL and what it predicts, told by its sampling object (other nodes may have replaced it).

    Compared by the functions themselves: a class that overrides one of them is another family.
    """
    import comfy.model_sampling as sampling

    found = model.get_model_object("model_sampling")
    kind = type(found)
    level, denoised = getattr(kind, "sigma", None), getattr(kind, "calculate_denoised", None)
    noise_or_v = denoised in (sampling.EPS.calculate_denoised, sampling.V_PREDICTION.calculate_denoised)
    if noise_or_v and level is sampling.ModelSamplingDiscrete.sigma and len(found.sigmas) == TRAINED_STEPS:
        with torch.inference_mode(False):
            table = TableSchedule(found.sigmas.detach().cpu().double().log())
        return table, "v" if denoised is sampling.V_PREDICTION.calculate_denoised else "eps"
    flow = level in (sampling.ModelSamplingDiscreteFlow.sigma, sampling.ModelSamplingFlux.sigma)
    if flow and denoised is sampling.CONST.calculate_denoised and getattr(found, "noise_scale", 1) == 1:
        return FlowSchedule(), "flow"
    bases = ", ".join(base.__name__ for base in kind.__mro__[1:3])
    raise wrong_input("model", f"{type(model.model).__name__} sampled as {bases}", "a known family", SUPPORTED)


def native_size_of(config: Any) -> int:
    """The side in pixels that a model was trained at."""
    size = config.unet_config.get("image_size", UNKNOWN_SIZE)
    if size != UNKNOWN_SIZE:
        return 8 * int(size)
    return next((NATIVE_SIZES[c.__name__] for c in type(config).__mro__ if c.__name__ in NATIVE_SIZES), 1024)
