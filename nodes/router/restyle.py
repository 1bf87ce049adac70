"""Restyling regions: noise a picture's latent in part, let the styles' experts remove the noise, paste back.

A region that fits the network is cut out as one square and worked on at native size. A larger one is worked on in
tiles at the picture's own size (`full_size.py`), or both ways in turn: composition from the first, texture from the
second. Everything outside the composited mask stays bit for bit. An expert acts where its region is (a gate per image
token); how much is redrawn is the noise level the picture starts from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..engine.adapters.acting import joined_reasons, watching_experts
from ..engine.adapters.gates import Gates
from ..engine.errors import wrong_input
from ..engine.predictor.base import NoisePredictor, Prediction
from ..engine.predictor.sampling import ddim, partial_times
from ..engine.region.enlarged import SMEAR
from ..engine.region.region import RegionCrop
from .full_size import AFTER_NATIVE, restyle_in_tiles
from .region_task import GateOf, RegionTask, Restyled, fitted, gate_region
from .settings import RestyleSettings

__all__ = ["GateOf", "RegionTask", "Restyled", "detail_of", "gate_region", "restyle_region", "restyle_regions"]
COMPOSES = 0.5  # from this strength on tiles alone would compose a scene each, so they follow the whole region


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
    settings, task = settings or RestyleSettings(), RegionTask(mask, prompt, gate, negative)
    task.check()
    detail = detail_of(predictor, mask, settings)
    if detail == "native":
        return _native(predictor, image, task, settings)
    if detail == "full":
        return restyle_in_tiles(predictor, image, [task], settings)
    return _both(predictor, image, [task], settings)


def restyle_regions(
    predictor: NoisePredictor, image: Tensor, tasks: Sequence[RegionTask], settings: RestyleSettings
) -> Restyled:
    """Restyle several regions of a picture `[1,3,H,W]` in one pass over its tiles, each with its prompt and experts.

    Where they overlap the later is on top. RegionStyleError for no task, an empty mask, and for detail "native", which
    is one region at a time.
    """
    if not tasks:
        raise wrong_input("tasks", "none", "one region or more", "Name a region to restyle.")
    for task in tasks:
        task.check()
    details = {detail_of(predictor, task.mask, settings) for task in tasks}
    if "native" in details:
        remedy = "Restyle that region by itself."
        raise wrong_input("detail", "native for one of the regions", "full or both for all of them", remedy)
    work = restyle_in_tiles if details == {"full"} else _both
    return work(predictor, image, list(tasks), settings)


def detail_of(predictor: NoisePredictor, mask: Tensor, settings: RestyleSettings) -> str:
    """How a region `[H,W]` is worked on: "native", "full" or "both"; "auto" is decided here.

    At native size where that would be enlarged 1.5 times at most. Otherwise in tiles; where so much is redrawn that
    the tiles would not agree on what they show, after the whole region.
    """
    if settings.detail != "auto":
        return settings.detail
    if 1 / _crop(predictor, mask, settings).scale <= SMEAR:
        return "native"
    return "both" if settings.strength > COMPOSES else "full"


def _crop(predictor: NoisePredictor, mask: Tensor, settings: RestyleSettings) -> RegionCrop:
    return RegionCrop.around(
        mask,
        native=predictor.native_size,
        grid=predictor.factor,
        margin=settings.margin,
        largest_scale=settings.largest_scale,
    )


def _both(predictor: NoisePredictor, image: Tensor, tasks: Sequence[RegionTask], settings: RestyleSettings) -> Restyled:
    """Every region as a whole, then all of them in tiles at a lower strength; the tiles' result is what stays."""
    before, reasons, enlarged = image, [], 1.0
    for task in tasks:
        whole = _native(predictor, before, task, settings)
        before, enlarged = whole.image, max(enlarged, whole.enlarged)
        reasons.append(whole.idle)
    weaker = replace(settings, strength=settings.strength * AFTER_NATIVE)
    tiled = restyle_in_tiles(predictor, before, tasks, weaker)
    # What the first pass changed and the second did not cannot be: both blend by the same masks.
    idle = joined_reasons([*reasons, tiled.idle])
    return replace(tiled, idle=idle, detail="both", enlarged=enlarged, worked=whole.worked)


def _native(predictor: NoisePredictor, image: Tensor, task: RegionTask, settings: RestyleSettings) -> Restyled:
    """One region cut out as a square, worked on at the network's native size and pasted back."""
    mask, crop = task.mask, _crop(predictor, task.mask, settings)
    with torch.no_grad(), watching_experts() as watch:
        region = gate_region(crop.cut_mask(mask), predictor.factor)
        gates = task.gate(region, lambda other: crop.cut_mask(fitted(other, mask)))
        picture = crop.cut(image)
        with predictor.inpainting(picture, region):
            worked = _redraw(predictor, picture, task, settings, gates)
    result = crop.paste(image, worked.to(image), mask, settings.feather)
    blended = crop.composite_mask(mask, settings.feather)[0, 0]
    return Restyled(result, blended, watch.idle_reasons(gates), "native", max(1.0, 1 / crop.scale), crop.size)


def _latent_noise(latent: Tensor, seed: int) -> Tensor:
    """Noise drawn on the CPU, so that every device gives the same picture."""
    return torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(latent)


def _redraw(
    predictor: NoisePredictor, image: Tensor, task: RegionTask, settings: RestyleSettings, gates: Gates | None
) -> Tensor:
    """The cropped picture `[1,3,n,n]` redrawn from its partly noised latent."""
    text = predictor.encode_text([task.prompt])
    other = None if task.negative is None else predictor.encode_text([task.negative])
    latent = predictor.encode(image)
    times = partial_times(settings.strength, settings.steps)
    start = predictor.add_noise(latent, _latent_noise(latent, settings.seed), times[0])
    progress = predictor.host.progress(settings.steps, "restyling")

    def on_step(index: int, prediction: Prediction) -> None:
        progress.update(index + 1, predictor.decode(prediction.denoised)[0])

    denoised = ddim(predictor, start, times, text, negative=other, cfg=settings.cfg, gate=gates, on_step=on_step)
    return predictor.decode(denoised)
