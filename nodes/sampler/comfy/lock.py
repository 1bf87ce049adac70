"""The background lock on a ComfyUI MODEL: what lies outside a mask is the source's latent at every noise level.

Before each prediction z <- M z + (1 - M) (the source at that level, with the run's own noise), and what is predicted
there is the source. The levels are asked of the model's own sampling object, so every family of pictures is held; the
sampler's latent itself is written, so that guidance and lock see one state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import wrong_input
from ..settings import LockSettings
from .guidance import check_latent

KEY = "regionstyle.lock"


@dataclass(frozen=True, eq=False)
class Lock:
    """source: the latent `[B or 1,C,h,w]` as a LATENT holds it, None: the one that is sampled from; mask `[B or 1,H,W]`
    in 0..1, 1 = free."""

    source: Tensor | None
    mask: Tensor
    settings: LockSettings


def lock_background(model: Any, mask: Tensor, source: Tensor | None, settings: LockSettings) -> Any:
    """A clone of a MODEL whose samplers leave the latent outside the mask as the source's; RegionStyleError for a MODEL
    that is locked already, and a mask of another number of axes."""
    from comfy.patcher_extension import WrappersMP

    if model.get_attachment(KEY) is not None:
        raise wrong_input("model", "one that is locked already", "one that is not", "Join both masks in one node.")
    mask = mask[None] if mask.ndim == 2 else mask
    mask = mask[..., 0] if mask.ndim == 4 else mask
    lock = Lock(source, mask.float().clamp(0, 1), settings)
    patched, wrappers = model.clone(), _Wrappers(lock)
    patched.set_attachments(KEY, lock)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, wrappers.sample)
    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, wrappers.predict)
    return patched


def latent_masks(mask: Tensor, latent: torch.Size) -> Tensor:
    """A mask on a latent's grid, `[B or 1,1,h,w]`: the share of each cell that is free, 0 only where all of it is held.

    RegionStyleError for a mask of another shape than the latent's, or another number of them.
    """
    height, width = latent[-2:]
    rows, columns = mask.shape[-2:]
    if abs(rows * width - columns * height) > max(rows, columns):
        accepts = f"the shape of the latent, {width} x {height}"
        raise wrong_input("mask", f"{columns} x {rows}", accepts, "Make it from a picture of the size that is sampled.")
    if len(mask) not in (1, latent[0]):
        accepts = f"1 or {latent[0]}, the number of latents"
        raise wrong_input("mask", f"{len(mask)} masks", accepts, "Give one mask, or one per latent.")
    return F.interpolate(mask[:, None], (height, width), mode="area")


@dataclass(frozen=True, eq=False)
class _Run:
    """One sampling run: noise and mask `[B,C,h,w]` and `[B or 1,1,h,w]`, the source as the network sees it."""

    noise: Tensor
    source: Tensor
    mask: Tensor
    sigmas: Tensor
    release: int
    scaled: list[Tensor]

    def held(self, sigma: float) -> bool:
        """Whether the background is held at a noise level: not in the last steps that are released."""
        step = int((self.sigmas[:-1] - sigma).abs().argmin())
        return step < len(self.sigmas) - 1 - self.release


class _Wrappers:
    """ComfyUI's wrappers of one lock; they hold nothing of a run."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock

    def sample(
        self, executor: Any, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A whole run."""
        check_latent(noise, kwargs)
        source, mask = self._source(latent), latent_masks(self.lock.mask, noise.shape)
        steps = sigmas.detach().float().cpu()
        run = _Run(noise, source, mask, steps, self.lock.settings.release, [])
        executor.class_obj.model_options.setdefault("transformer_options", {})[KEY] = run
        result = executor(noise, latent, sampler, sigmas, *args, **kwargs)
        if run.release:
            return result
        # The samplers' last step leaves rounding; held means held.
        return torch.where(mask.to(result.device) > 0, result, source.to(result).expand_as(result))

    def predict(self, executor: Any, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Any:
        """One noise level."""
        options = {} if model_options is None else model_options
        run: _Run = options["transformer_options"][KEY]
        if not run.held(float(timestep.flatten()[0])):
            return executor(x, timestep, options, seed)
        model, mask = executor.class_obj.inner_model, run.mask.to(x)
        if not run.scaled:
            run.scaled.append(model.process_latent_in(run.source.to(x)).expand_as(x))
        source = run.scaled[0]
        # Some families scale the noise in place.
        noisy = model.scale_latent_inpaint(
            x=x, sigma=timestep, noise=run.noise.to(x).clone(), latent_image=source.clone()
        )
        x.copy_(_mixed(x, noisy, mask))
        return _mixed(executor(x, timestep, options, seed), source, mask)

    def _source(self, latent: Tensor) -> Tensor:
        source = latent if self.lock.source is None else self.lock.source
        if self.lock.source is None and not bool(latent.any()):
            remedy = "Encode the picture with VAE Encode and connect it here, or sample from it."
            raise wrong_input("source", "nothing, and an empty latent to sample from", "a latent to hold", remedy)
        if source.shape[1:] != latent.shape[1:] or len(source) not in (1, len(latent)):
            accepts = f"{list(latent.shape)}, as what is sampled"
            raise wrong_input("source", f"a latent {list(source.shape)}", accepts, "Encode a picture of that size.")
        return source


def _mixed(free: Tensor, held: Tensor, mask: Tensor) -> Tensor:
    """mask * free + (1 - mask) * held, exactly `held` where the mask is 0."""
    return torch.where(mask > 0, torch.lerp(held.to(free), free, mask.expand_as(free)), held.to(free))
