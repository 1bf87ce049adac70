"""The ready sampler and attention maps over ComfyUI's objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.adapters.comfy import without_experts
from ...engine.errors import wrong_input
from ...engine.families.registry import family_of
from ...engine.host.comfy import ComfyHost, to_pil
from ...engine.host.compiled import original_network
from ...engine.io.comfy_tensors import image_of, images_of
from ...engine.io.curves import loss_panel
from ...engine.io.heatmap import heat
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.regions import Regions
from ..guidance import StepRecord
from ..maps import as_masks, look, map_pictures, resized, step_strip
from ..settings import GuidanceSettings, LockSettings, MapSettings, SamplingSettings
from .guidance import Guided, guide_model
from .lock import lock_background

PREVIEW_SIDE = 512
RED, BLUE = (190, 60, 60), (60, 80, 190)


@dataclass
class Steps:
    """What a run's attention looked like, filled while it samples."""

    records: list[StepRecord] = field(default_factory=list)

    def add(self, record: StepRecord) -> None:
        self.records.append(record)


@dataclass(frozen=True)
class Sampled:
    """latent: a LATENT; attention and losses: IMAGEs about how it came about."""

    latent: dict[str, Any]
    attention: Tensor
    losses: Tensor
    records: list[StepRecord]
    notice: str
    warning: str


def sample_guided(
    model: Any,
    clip: Any,
    prompt: str,
    negative: str,
    regions: Regions,
    latent: dict[str, Any],
    sampler_name: str,
    scheduler: str,
    settings: GuidanceSettings,
    sampling: SamplingSettings,
    lock: LockSettings | None,
    say: Callable[[str], Any],
) -> Sampled:
    """Sample a guided MODEL with ComfyUI's own samplers; a preview shows the attention beside the picture.

    lock: hold the latent outside all regions as the one that is given. say(text) is called with the losses so far.
    """
    steps = Steps()

    def on_step(record: StepRecord) -> None:
        steps.add(record)
        say(_last_losses(steps.records))

    guided = guide_model(model, clip, prompt, regions, settings, on_step)
    patched = guided.model
    if lock is not None:
        patched = lock_background(patched, regions.union(), None, lock)
    result = _sample(patched, clip, guided, negative, latent, sampler_name, scheduler, sampling, steps)
    strip = image_of(step_strip(steps.records)[None])
    return Sampled(result, strip, _curves(steps.records), steps.records, guided.notice, guided.warning)


def _sample(
    model: Any, clip: Any, guided: Guided, negative: str, latent: dict[str, Any], sampler_name: str, scheduler: str,
    sampling: SamplingSettings, steps: Steps,
) -> dict[str, Any]:  # fmt: skip
    """ComfyUI's `common_ksampler`, with a preview of the attention."""
    import comfy.sample
    import comfy.samplers

    for name, given, known in (
        ("sampler_name", sampler_name, comfy.samplers.KSampler.SAMPLERS),
        ("scheduler", scheduler, comfy.samplers.KSampler.SCHEDULERS),
    ):
        if given not in known:  # 0.3.64 lets any word through
            raise wrong_input(name, repr(given), f"one of: {', '.join(known)}", "Choose one of these.")
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = comfy.sample.prepare_noise(samples, sampling.seed, latent.get("batch_index"))
    other = clip.encode_from_tokens_scheduled(clip.tokenize(negative))
    made = comfy.sample.sample(
        model, noise, sampling.steps, sampling.cfg, sampler_name, scheduler, guided.positive, other, samples,
        denoise=sampling.denoise, noise_mask=latent.get("noise_mask"), seed=sampling.seed, disable_pbar=True,
        callback=_preview(model, sampling.steps, steps),
    )  # fmt: skip
    return {**latent, "samples": made}


def _preview(model: Any, total: int, steps: Steps) -> Callable[..., None]:
    """A sampler's callback: progress, cancel, and a preview of the picture with its attention beside it."""
    import comfy.model_management as management
    import comfy.utils
    import latent_preview

    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    bar = comfy.utils.ProgressBar(total)

    def callback(step: int, x0: Tensor, x: Tensor, total_steps: int) -> None:
        shown = ("JPEG", _beside(previewer, x0, steps.records), PREVIEW_SIDE) if steps.records else None
        bar.update_absolute(step + 1, total_steps, shown)
        management.throw_exception_if_processing_interrupted()

    return callback


def _beside(previewer: Any, x0: Tensor, records: list[StepRecord]) -> Any:
    """The attention of every phrase in a row, after the latent's own preview where previews are on."""
    from PIL import Image

    side = 192
    cells = [F.interpolate(heat(one), (side, side), mode="nearest")[0] for one in records[-1].maps]
    row = to_pil(torch.cat(cells, 2))
    if previewer is None:
        return row
    _, picture, *_ = previewer.decode_latent_to_preview_image("JPEG", x0)
    joined = Image.new("RGB", (side + row.width, side))
    joined.paste(picture.resize((side, side)), (0, 0))
    joined.paste(row, (side, 0))
    return joined


def _last_losses(records: list[StepRecord]) -> str:
    last, first = records[-1], records[0]
    return (
        f"step {len(records)}: focus {last.focus:.3f} (first {first.focus:.3f}), "
        f"cover {last.cover:.3f} (first {first.cover:.3f})"
    )


def _curves(records: list[StepRecord]) -> Tensor:
    """Both losses over the steps, as an IMAGE."""
    panels = [
        loss_panel("Focus", [record.focus for record in records], BLUE, "steps"),
        loss_panel("Cover", [record.cover for record in records], RED, "steps"),
    ]
    return image_of(torch.cat(panels, 1)[None])


@dataclass(frozen=True)
class LookedAt:
    """masks `[B*P,H,W]` and pictures `[B*P,H,W,3]`, all phrases of one image first; layers and tokens in words."""

    masks: Tensor
    pictures: Tensor
    layers: str
    tokens: str


def look_at(
    model: Any, clip: Any, vae: Any, image: Tensor, prompt: str, phrases: str, settings: MapSettings
) -> LookedAt:
    """Maps of phrases, a line each, with experts of the MODEL off."""
    from .guidance import KEY

    if model.get_attachment(KEY) is not None:
        remedy = "Connect the MODEL from before Attention Guidance; its sampler shows the guided attention."
        raise wrong_input("model", "a guided one", "one that is not", remedy)
    family_of(original_network(model.model.diffusion_model))  # says now which networks can be looked at
    words = [line.strip() for line in phrases.splitlines() if line.strip()]
    images = images_of(image)
    predictor = ComfyPredictor(without_experts(model), clip, vae, ComfyHost())
    with predictor.loaded():
        seen = look(predictor, _fitting(images, predictor.factor), prompt, words, settings)
    size = (images.shape[-2], images.shape[-1])
    masks = as_masks(resized(seen.maps, size), settings.attention).flatten(0, 1)
    return LookedAt(masks, image_of(map_pictures(images, seen.maps)), seen.layers, seen.tokens)


def _fitting(images: Tensor, factor: int) -> Tensor:
    """Pictures with sides that the autoencoder can halve: the next larger ones."""
    height, width = (-(-side // factor) * factor for side in images.shape[-2:])
    if (height, width) == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True).clamp(0, 1)
