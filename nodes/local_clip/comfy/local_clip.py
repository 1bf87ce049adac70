"""Local CLIP style over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import image_of, images_of, masks_of
from ...engine.io.curves import strip
from ...engine.region.regions import Regions, not_found_notice, region_of
from ...engine.region.unchanged import why_unchanged
from ..networks import LocalClipNetworks
from ..pictures import curves
from ..settings import LocalClipSettings
from ..stylize import LocalClip, LocalStyled, stylize_local
from .vae_coder import VaeCoder


@dataclass(frozen=True)
class StyledBatch:
    """image `[B,H,W,3]`, mask `[B,H,W]`, two pictures `[1,H,W,3]` about how the first came about, and two texts."""

    image: Tensor
    mask: Tensor
    strip: Tensor
    curves: Tensor
    notice: str
    warning: str  # what was not changed or not finished, and why; "" where all was


def style_batch(
    networks: LocalClipNetworks, image: Tensor, regions: Regions | None, mask: Tensor | None, style: str,
    settings: LocalClipSettings, start: Tensor | None = None, vae: Any = None,
) -> StyledBatch:  # fmt: skip
    """Every region of a batch in its style, or the mask's (without one the whole picture) in `style`.

    RegionStyleError for regions and a mask at once, and a style that no region lacks.
    """
    images = images_of(image).float()
    wanted = _regions(images, regions, mask, style.strip())
    if vae is not None and settings.optimise != "latent":
        accepts = "no VAE, since no latent is optimised"
        raise wrong_input("vae", f"one with optimise {settings.optimise!r}", accepts, "Set optimise to 'latent'.")
    first = None if start is None else images_of(start).float()
    by = LocalClip(networks, ComfyHost(), None if vae is None else VaeCoder(vae))
    return _batch(images, wanted, stylize_local(images, wanted, by, settings, first))


def _regions(images: Tensor, regions: Regions | None, mask: Tensor | None, style: str) -> Regions:
    """What is to be changed, each with its style."""
    if regions is None:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        masks = torch.ones(len(images), *size) if mask is None else masks_of(mask, images).cpu()
        items = [region_of("the mask", covered, style=style, image=index) for index, covered in enumerate(masks)]
        return Regions(tuple(items), *size, len(images))
    if mask is not None:
        raise wrong_input("mask", "one beside regions", "regions or a mask", "Take one of them off.")
    if style and all(region.style for region in regions):
        accepts = "nothing, since every region carries its own style"
        raise wrong_input("style", repr(style), accepts, "Leave it empty, or make regions without a style.")
    return regions.with_items(region if region.style else replace(region, style=style) for region in regions)


def _batch(images: Tensor, regions: Regions, made: LocalStyled) -> StyledBatch:
    warning = [why_unchanged(images, made.images, regions.union()), not_found_notice(regions), made.warning]
    frames = strip(made.frames) if made.frames else made.images[0]
    shown, losses = (image_of(picture[None].float()) for picture in (frames, curves(made.history)))
    text = "\n".join(filter(None, warning))
    return StyledBatch(image_of(made.images), made.masks.float().cpu(), shown, losses, made.notice, text)
