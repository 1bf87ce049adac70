"""Model families, and what it takes to add one. This is the file to read for that.

On the diffusers host a family is a subclass of `DiffusersFamily` here, listed in `FAMILIES`: how its classes are
recognised, its noise levels (`schedule.py`: a table or rectified flow), what its output means (`from_eps`, `from_v`,
`from_flow`), how the network is called, and how its text encoders are combined (`diffusers_text.py`).

On the ComfyUI host ComfyUI calls the network, so there is less to say, one line each:
- `comfy_schedule.schedule_of`: only for a sampling object that is neither a table of noise or velocity nor flow;
- `comfy_conditioning.EXTRA_CLASSES`: if the network is told more than words (`predictor.Extras`);
- `comfy_text.LAYOUTS`: which text encoders' tokens lie along the token axis.

On both hosts, for maps of words: `attention_layers.py`. A U-Net with `attn2` modules needs nothing there; a transformer
with text and image in one sequence needs the names of its lists of blocks in `JOINT_BLOCKS` or `COMFY_JOINT_BLOCKS`.

For style experts on it: `adapter_families.py`, which says what a layer's rows stand for.

Then put a small random network of the family into tests/support/family_models.py (diffusers) and
tests/engine/comfy_models.py (ComfyUI): the tests of predictor, tap and gradients run over those lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import wrong_input
from ..predictor.base import Text
from ..predictor.diffusers_text import encode_flux, encode_sd, encode_sd3, encode_sdxl
from ..predictor.schedule import (
    FlowSchedule,
    Prediction,
    Schedule,
    TableSchedule,
    Time,
    from_eps,
    from_flow,
    from_v,
    timestep_of,
)
from .unet_names import has_time_axis

SUPPORTED = (
    "Supported: U-Nets of the Stable Diffusion 1, 2 and SDXL class that predict epsilon or v_prediction, "
    "SD3Transformer2DModel and FluxTransformer2DModel (rectified flow)."
)
# What a network gives, by the function that reads it.
PREDICTED: dict[Any, str] = {from_eps: "eps", from_v: "v", from_flow: "flow"}
GUIDANCE = 3.5  # what Flux pipelines give when nobody asks for another
UNKNOWN_SIDE = 128  # latents of 1024 pixels: what transformers without a trained size in their config take


class DiffusersFamily(ABC):
    """One class of networks. extras: names of the `Extras` it reads."""

    schedule: Schedule
    convert: Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]
    extras: tuple[str, ...] = ()

    def __init__(self, network: Any, scheduler: Any) -> None:
        """RegionStyleError for a variant that would need inputs this predictor does not give."""
        self.network, self.config = network, network.config
        self.latent_channels = int(self.config.in_channels)
        side = getattr(self.config, "sample_size", None) or UNKNOWN_SIDE
        self.native_side = max(side) if isinstance(side, (list, tuple)) else int(side)

    @staticmethod
    @abstractmethod
    def matches(network: Any) -> bool:
        """Whether a network is of this family."""

    @abstractmethod
    def call(self, x: Tensor, t: Time, text: Text) -> Tensor:
        """The network's output `[B,C,h,w]` for x `[B,C,h,w]` in its dtype, with one prompt per image."""

    @staticmethod
    @abstractmethod
    def encode_text(encoders: Sequence[Any], tokenizers: Sequence[Any], texts: list[str]) -> Text:
        """Prompts as this family's pipelines encode them."""

    def _per_image(self, value: Tensor, x: Tensor) -> Tensor:
        return value.to(x.device, torch.float32).expand(len(x))


class StableDiffusion(DiffusersFamily):
    """UNet2DConditionModel of Stable Diffusion 1 and 2.

    It is asked at the nearest whole timestep, the only ones it was trained on and what ComfyUI does.
    """

    encode_text = staticmethod(encode_sd)

    def __init__(self, network: Any, scheduler: Any) -> None:
        super().__init__(network, scheduler)
        self.schedule, self.convert = _trained_table(scheduler)
        config = self.config
        extra = [name for name in ("class_embed_type", "encoder_hid_dim_type") if config.get(name)]
        if config.get("addition_embed_type") and not self.extras:
            extra.append("addition_embed_type " + str(config.get("addition_embed_type")))
        if extra or config.in_channels != config.out_channels:
            what = ", ".join(extra) or f"{config.in_channels} input channels for {config.out_channels} output channels"
            raise wrong_input("unet", f"a network with {what}", "text as the only condition", SUPPORTED)

    @staticmethod
    def matches(network: Any) -> bool:
        return hasattr(getattr(network, "config", None), "cross_attention_dim") and not has_time_axis(network)

    def call(self, x: Tensor, t: Time, text: Text) -> Tensor:
        steps = timestep_of(t).round().to(x.device, torch.long).expand(len(x))
        return self.network(x, steps, encoder_hidden_states=text.states.to(x), **self._added(x, text)).sample

    def _added(self, x: Tensor, text: Text) -> dict[str, Any]:
        return {}


class StableDiffusionXL(StableDiffusion):
    """UNet2DConditionModel that is told the pooled text and six sizes beside the words (arXiv:2307.01952, 2.2)."""

    encode_text = staticmethod(encode_sdxl)
    extras = ("original", "crop", "target")

    @staticmethod
    def matches(network: Any) -> bool:
        return StableDiffusion.matches(network) and network.config.get("addition_embed_type") == "text_time"

    def _added(self, x: Tensor, text: Text) -> dict[str, Any]:
        pooled = _pooled_of(text, x)
        width = self.config.projection_class_embeddings_input_dim - 6 * self.config.addition_time_embed_dim
        if pooled.shape[1] != width:
            accepts = f"[B, {width}] beside six sizes"
            raise wrong_input("text.pooled", list(pooled.shape), accepts, "Use the encoders this network was made for.")
        picture = (x.shape[-2] * 8, x.shape[-1] * 8)
        extras = text.extras
        original = extras.original or picture
        sizes = (*original, *(extras.crop or (0, 0)), *(extras.target or original))
        ids = torch.tensor([sizes], dtype=torch.float32, device=x.device).expand(len(x), -1)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}


class _Flow(DiffusersFamily):
    """Rectified-flow transformers over patches of 2x2 latent places; odd sizes are padded as ComfyUI pads them."""

    classname: str

    def __init__(self, network: Any, scheduler: Any) -> None:
        super().__init__(network, scheduler)
        self.schedule, self.convert = FlowSchedule(), from_flow
        if scheduler is not None and hasattr(scheduler, "alphas_cumprod"):
            got, accepts = type(scheduler).__name__, "a flow-matching scheduler, or None"
            raise wrong_input("scheduler", got, accepts, f"{self.classname} is a rectified-flow network.")

    @classmethod
    def _is_one(cls, network: Any) -> bool:
        return cls.classname in [base.__name__ for base in type(network).__mro__]

    def call(self, x: Tensor, t: Time, text: Text) -> Tensor:
        height, width = x.shape[-2:]
        level = self._per_image(self.schedule.alpha_sigma(t)[1], x)
        # The network's own level must be as exact as sigma in the conversion, so it stays in float32.
        return self._flow(F.pad(x, (0, width % 2, 0, height % 2), mode="circular"), level, text)[..., :height, :width]

    @abstractmethod
    def _flow(self, x: Tensor, level: Tensor, text: Text) -> Tensor:
        """The output for x with even sides; level: s `[B]`."""


class StableDiffusion3(_Flow):
    """SD3Transformer2DModel, SD3 and SD3.5."""

    classname = "SD3Transformer2DModel"
    encode_text = staticmethod(encode_sd3)

    @staticmethod
    def matches(network: Any) -> bool:
        return StableDiffusion3._is_one(network)

    def _flow(self, x: Tensor, level: Tensor, text: Text) -> Tensor:
        return self.network(
            hidden_states=x,
            timestep=level * 1000,
            encoder_hidden_states=text.states.to(x),
            pooled_projections=_pooled_of(text, x),
        ).sample


class Flux(_Flow):
    """FluxTransformer2DModel, dev (told a guidance scale) and schnell (not)."""

    classname = "FluxTransformer2DModel"
    encode_text = staticmethod(encode_flux)

    def __init__(self, network: Any, scheduler: Any) -> None:
        super().__init__(network, scheduler)
        outputs = network.config.out_channels
        if outputs is not None and outputs != network.config.in_channels:
            got = f"{network.config.in_channels} input channels for {outputs} output channels"
            raise wrong_input("unet", got, "text as the only condition", SUPPORTED)
        self.latent_channels = network.config.in_channels // 4
        self.extras = ("guidance",) if network.config.guidance_embeds else ()

    @staticmethod
    def matches(network: Any) -> bool:
        return Flux._is_one(network)

    def _flow(self, x: Tensor, level: Tensor, text: Text) -> Tensor:
        rows, columns = x.shape[-2] // 2, x.shape[-1] // 2
        guidance = text.extras.guidance if text.extras.guidance is not None else GUIDANCE
        output = self.network(
            hidden_states=F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2),
            timestep=level,
            guidance=torch.full_like(level, guidance) if self.extras else None,
            encoder_hidden_states=text.states.to(x),
            pooled_projections=_pooled_of(text, x),
            txt_ids=torch.zeros(text.states.shape[1], 3, device=x.device),
            img_ids=_places(rows, columns).to(x.device),
        ).sample
        return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), 2)


FAMILIES: tuple[type[DiffusersFamily], ...] = (Flux, StableDiffusion3, StableDiffusionXL, StableDiffusion)


def family_of(network: Any, scheduler: Any) -> DiffusersFamily:
    """The family of a network. RegionStyleError for networks of another one."""
    for family in FAMILIES:
        if family.matches(network):
            return family(network, scheduler)
    raise wrong_input("unet", type(network).__name__, "a network of a known family", SUPPORTED)


def _trained_table(scheduler: Any) -> tuple[Schedule, Callable[[Tensor, Tensor, Tensor, Tensor], Prediction]]:
    """Levels and conversion of a scheduler that was trained on 1000 timesteps."""
    conversions = {"epsilon": from_eps, "v_prediction": from_v}
    kind = getattr(getattr(scheduler, "config", None), "prediction_type", None)
    if kind not in conversions or not hasattr(scheduler, "alphas_cumprod"):
        got = type(scheduler).__name__ if kind is None else f"prediction_type {kind!r}"
        raise wrong_input("scheduler", got, " or ".join(map(repr, conversions)), SUPPORTED)
    return TableSchedule.of_alphas_cumprod(scheduler.alphas_cumprod), conversions[kind]


def _pooled_of(text: Text, x: Tensor) -> Tensor:
    if text.pooled is None:
        raise wrong_input("text.pooled", "nothing", "[B,P]", "Encode the prompt with this predictor's encode_text.")
    return text.pooled.to(x)


def _places(rows: int, columns: int) -> Tensor:
    """Flux's position ids `[rows*columns,3]`: 0, row, column."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1], ids[..., 2] = torch.arange(rows)[:, None], torch.arange(columns)
    return ids.flatten(0, 1)
