"""Restyling one region: cut it out, noise its latent in part, let the style's expert remove the noise, paste back.

Everything outside the composited mask stays bit for bit. The expert acts where the region is (a gate per image
token); how much is redrawn is the noise level the picture starts from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.adapters.acting import watching_experts
from ..engine.adapters.gates import Gates
from ..engine.errors import RegionStyleError
from ..engine.predictor.base import NoisePredictor, Prediction
from ..engine.predictor.sampling import ddim, partial_times
from ..engine.region.region import RegionCrop, feather_mask
from .settings import RestyleSettings

# From the region in the crop `[1,n,n]`, and the function that cuts any other mask like the picture, to the gates.
GateOf = Callable[[Tensor, Callable[[Tensor], Tensor]], Gates | None]


@dataclass(frozen=True)
class Restyled:
    """image `[1,3,H,W]`; mask `[H,W]`, the composited one: where it is 0 the image equals the input bit for bit.

    idle: the experts that were to act -> why they did not, "" for those that did.
    """

    image: Tensor
    mask: Tensor
    crop: RegionCrop
    idle: Mapping[str, str] = field(default_factory=dict)


def _latent_noise(latent: Tensor, seed: int) -> Tensor:
    """Noise drawn on the CPU, so that every device gives the same picture."""
    return torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(latent)


def gate_region(mask: Tensor, grow: int) -> Tensor:
    """The region an expert acts in: the mask grown by one latent cell, since an edge cell needs whole style.

    mask `[n,n]` -> `[1,n,n]` in 0..1.
    """
    return feather_mask((mask > 0).to(mask), grow)[None]


def restyle_region(
    predictor: NoisePredictor,
    image: Tensor,
    mask: Tensor,
    prompt: str,
    *,
    gate: GateOf = lambda region, cut: None,
    negative: str | None = None,
    settings: RestyleSettings | None = None,
) -> Restyled:
    """Restyle the masked region of a picture.

    image `[1,3,H,W]` in 0..1; mask `[H,W]` in 0..1, 1 = change; prompt: what the region shall show; gate: gives the
    experts' gates in the crop (None: experts stay as they are attached). A network for inpainting is told the region
    and the picture around it. Shows a preview each step and can be cancelled there. RegionStyleError for an empty mask.
    """
    settings = settings or RestyleSettings()
    if not bool((mask > 0).any()):
        raise RegionStyleError(
            "mask: got no value above 0, expected a region to change. Draw it, or name a thing that is in the picture."
        )
    crop = RegionCrop.around(
        mask,
        native=predictor.native_size,
        grid=predictor.factor,
        margin=settings.margin,
        largest_scale=settings.largest_scale,
    )
    with torch.no_grad(), watching_experts() as watch:
        region = gate_region(crop.cut_mask(mask), predictor.factor)
        gates = gate(region, lambda other: crop.cut_mask(_fitted(other, mask)))
        picture = crop.cut(image)
        with predictor.inpainting(picture, region):
            worked = _redraw(predictor, picture, prompt, negative, settings, gates)
    result = crop.paste(image, worked.to(image), mask, settings.feather)
    blended = crop.composite_mask(mask, settings.feather)[0, 0]
    return Restyled(result, blended, crop, watch.idle_reasons(gates))


def _fitted(other: Tensor, mask: Tensor) -> Tensor:
    """A mask `[h,w]` at the size of another."""
    if other.shape == mask.shape:
        return other
    return F.interpolate(other[None, None].float(), mask.shape, mode="bilinear", antialias=True)[0, 0]


def _redraw(
    predictor: NoisePredictor,
    image: Tensor,
    prompt: str,
    negative: str | None,
    settings: RestyleSettings,
    gates: Gates | None,
) -> Tensor:
    """The cropped picture `[1,3,n,n]` redrawn from its partly noised latent."""
    text = predictor.encode_text([prompt])
    other = None if negative is None else predictor.encode_text([negative])
    latent = predictor.encode(image)
    times = partial_times(settings.strength, settings.steps)
    start = predictor.add_noise(latent, _latent_noise(latent, settings.seed), times[0])
    progress = predictor.host.progress(settings.steps, "restyling")

    def on_step(index: int, prediction: Prediction) -> None:
        progress.update(index + 1, predictor.decode(prediction.denoised)[0])

    denoised = ddim(predictor, start, times, text, negative=other, cfg=settings.cfg, gate=gates, on_step=on_step)
    return predictor.decode(denoised)
