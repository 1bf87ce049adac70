"""What a ComfyUI MODEL was trained as: its noise levels, what its output means, and the size of its pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input
from ..families.registry import comfy_native_size, comfy_schedule_of
from ..families.support import supported_predictions
from .schedule import FlowSchedule, Schedule, like

# ComfyUI's detection writes this size for every U-Net, so it says nothing.
UNKNOWN_SIZE = 32


def comfy_latent(schedule: Schedule, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """ComfyUI's latent and noise level `[B]` of x, both float32."""
    latent, level = x.float(), sigma
    if not isinstance(schedule, FlowSchedule):
        latent, level = latent / like(alpha, x).float(), sigma / alpha
    return latent, level.to(x.device, torch.float32).expand(len(x)).clone()


def schedule_of(model: Any) -> tuple[Schedule, str]:
    """The noise levels of a MODEL and what it predicts ("eps", "v" or "flow").

    Told by its sampling object, which other nodes may have replaced. RegionStyleError for one that no family knows.
    """
    sampling = model.get_model_object("model_sampling")
    schedule = comfy_schedule_of(sampling)
    if schedule is None:
        bases = ", ".join(base.__name__ for base in type(sampling).__mro__[1:3])
        got = f"{type(model.model).__name__} sampled as {bases}"
        raise wrong_input("model", got, "a known family", supported_predictions())
    return schedule


def native_size_of(config: Any) -> int:
    """The side in pixels that a model was trained at."""
    size = config.unet_config.get("image_size", UNKNOWN_SIZE)
    if size != UNKNOWN_SIZE:
        return 8 * int(size)
    return comfy_native_size(config)
