"""How a diffusers network is called to predict noise: what the families' own ways have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import wrong_input
from ..predictor.base import Text
from ..predictor.schedule import FlowSchedule, Schedule, TableSchedule, Time
from .base import ModelFamily

# What a scheduler's `prediction_type` is called here.
PREDICTION_TYPES = {"epsilon": "eps", "v_prediction": "v"}


class Denoiser(ABC):
    """One diffusers network and how its family calls it.

    schedule: its noise levels; predicts: "eps", "v" or "flow"; extras: names of the `Extras` it reads; native_side:
    latent pixels along a side that it was trained at; inpaints: it sees mask and masked picture after the latent.
    """

    schedule: Schedule
    predicts: str
    extras: tuple[str, ...] = ()
    inpaints: bool = False

    def __init__(self, family: ModelFamily, network: Any) -> None:
        self.family, self.network, self.config = family, network, network.config
        self.latent_channels = int(self.config.in_channels)
        side = getattr(self.config, "sample_size", None) or family.native_size // family.latent_factor
        self.native_side = max(side) if isinstance(side, (list, tuple)) else int(side)

    @abstractmethod
    def call(self, x: Tensor, t: Time, text: Text, **shown: Tensor) -> Tensor:
        """The network's output `[B,C,h,w]` for x `[B,C,h,w]` in its dtype, with one prompt per image.

        shown: `reference`, latents `[B,C,k,l]` of a picture for each, in families that have `references`.
        """


class FlowDenoiser(Denoiser):
    """Rectified-flow transformers over patches of 2x2 latent pixels; odd sizes are padded as ComfyUI pads them."""

    predicts = "flow"

    def __init__(self, family: ModelFamily, network: Any, scheduler: Any) -> None:
        """RegionStyleError for a scheduler with a table of noise levels."""
        super().__init__(family, network)
        self.schedule = FlowSchedule()
        if scheduler is not None and hasattr(scheduler, "alphas_cumprod"):
            got, accepts = type(scheduler).__name__, "a flow-matching scheduler, or None"
            raise wrong_input("scheduler", got, accepts, f"{family.diffusers_class} is a rectified-flow network.")

    def call(self, x: Tensor, t: Time, text: Text, **shown: Tensor) -> Tensor:
        """See `Denoiser.call`."""
        height, width = x.shape[-2:]
        level = self.schedule.alpha_sigma(t)[1].to(x.device, torch.float32).expand(len(x))
        # The network's own level must be as exact as sigma in the conversion, so it stays in float32.
        shown = {name: even_sides(latents) for name, latents in shown.items()}
        return self.flow(even_sides(x), level, text, **shown)[..., :height, :width]

    @abstractmethod
    def flow(self, x: Tensor, level: Tensor, text: Text, **shown: Tensor) -> Tensor:
        """The output for x `[B,C,h,w]` with even sides; level: s `[B]` in 0..1; shown: see `call`, with even sides."""


def even_sides(x: Tensor) -> Tensor:
    """A latent with even sides: padded as ComfyUI pads it."""
    return F.pad(x, (0, x.shape[-1] % 2, 0, x.shape[-2] % 2), mode="circular")


def trained_table(family: ModelFamily, scheduler: Any) -> tuple[Schedule, str]:
    """Levels and prediction of a scheduler with 1000 trained timesteps. RegionStyleError for other schedulers."""
    kind = getattr(getattr(scheduler, "config", None), "prediction_type", None)
    if kind not in PREDICTION_TYPES or not hasattr(scheduler, "alphas_cumprod"):
        got = type(scheduler).__name__ if kind is None else f"prediction_type {kind!r}"
        raise wrong_input("scheduler", got, " or ".join(map(repr, PREDICTION_TYPES)), family.supported_denoiser())
    return TableSchedule.of_alphas_cumprod(scheduler.alphas_cumprod), PREDICTION_TYPES[kind]


def pooled_text(text: Text, x: Tensor) -> Tensor:
    """The pooled text `[B,P]` on x's device and in its dtype. RegionStyleError where the prompt has none."""
    if text.pooled is None:
        raise wrong_input("text.pooled", "nothing", "[B,P]", "Encode the prompt with this predictor's encode_text.")
    return text.pooled.to(x)
