"""A foreground laid into a background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from ..engine.io.pictures import LARGEST
from .base import check_picture, check_region
from .settings import PlaceSettings

_SEEN = 1e-4  # of a mask: less than a step of 8 bits


def lay_into(foreground: Tensor, mask: Tensor, background: Tensor, place: PlaceSettings) -> tuple[Tensor, Tensor]:
    """The composite `[B,3,H,W]` of the background's size and the foreground's mask in it `[B,1,H,W]`.

    foreground `[B,3,h,w]` with mask `[B,1,h,w]`, all in 0..1; background `[B,3,H,W]` or one for all. A soft mask mixes
    linearly; where it is 0 the background stays bit for bit. What lies beyond the background is cut off.
    Scaled colours are those of the mask's inside: what surrounded the foreground does not bleed into its border.
    RegionStyleError for a place where nothing of the foreground is seen.
    """
    canvas, region = on_canvas(foreground, mask, background, place, bleed=False)
    if bool((mask > 0).any()) and not bool((region > 0).any()):
        got = f"x {place.x}, y {place.y}, where nothing of the foreground is inside the background"
        raise wrong_input("place", got, "a place where some of its mask is seen", "Move it, or scale it up.")
    mixed = torch.lerp(background, canvas, region.expand_as(canvas))
    return torch.where(region > 0, mixed, background), region


def on_canvas(
    foreground: Tensor, mask: Tensor, background: Tensor, place: PlaceSettings, *, bleed: bool = True
) -> tuple[Tensor, Tensor]:
    """The foreground `[B,3,H,W]` and its mask `[B,1,H,W]` on a canvas of the background's size.

    Beyond the foreground's picture its border's colours go on, so that differences there are 0. bleed: whether scaling
    mixes colours across the mask's border, as Poisson blending wants them, which takes differences of both sides.
    """
    check_picture(foreground, "foreground")
    check_region(mask, foreground, "mask")
    check_picture(background, "background")
    count = max(len(foreground), len(background))
    if len(foreground) != len(background) and 1 not in (len(foreground), len(background)):
        got = f"{len(background)} pictures for {len(foreground)} foregrounds"
        raise wrong_input("background", got, "one, or one for each foreground", "Repeat or select pictures.")
    size = [max(1, round(n * place.scale)) for n in foreground.shape[-2:]]
    if size[0] * size[1] > LARGEST:
        got, accepts = f"{place.scale:g}, {size[1]} x {size[0]} pixels", f"at most {LARGEST // 10**6} million pixels"
        raise wrong_input("scale", got, accepts, "Make it smaller.")
    if size != list(foreground.shape[-2:]):
        foreground, mask = _scaled(foreground, mask, size, bleed)
    height, width = background.shape[-2:]
    if place.x >= width or place.y >= height or place.x + size[1] <= 0 or place.y + size[0] <= 0:
        got = f"x {place.x}, y {place.y} for a foreground of {size[1]} x {size[0]} pixels"
        accepts = f"a place where it lies in the background of {width} x {height} pixels"
        raise wrong_input("place", got, accepts, "Move it.")
    rows = (torch.arange(height) - place.y).clamp(0, size[0] - 1).to(foreground.device)
    columns = (torch.arange(width) - place.x).clamp(0, size[1] - 1).to(foreground.device)
    there = _within(height, place.y, size[0])[:, None] & _within(width, place.x, size[1])[None]
    canvas = foreground[..., rows, :][..., columns].expand(count, -1, -1, -1)
    region = mask[..., rows, :][..., columns] * there.to(mask)
    return canvas, region.expand(count, -1, -1, -1)


def _scaled(foreground: Tensor, mask: Tensor, size: list[int], bleed: bool) -> tuple[Tensor, Tensor]:
    """Both at a size. Without bleeding, colours are means weighted by the mask (premultiplied alpha)."""
    colours, soft = (F.interpolate(x, size, mode="bilinear", antialias=True).clamp(0, 1) for x in (foreground, mask))
    if bleed:
        return colours, soft
    inner = F.interpolate(foreground * mask, size, mode="bilinear", antialias=True)
    return torch.where(soft > _SEEN, inner / soft.clamp_min(_SEEN), colours).clamp(0, 1), soft


def _within(length: int, start: int, size: int) -> Tensor:
    at = torch.arange(length)
    return (at >= start) & (at < start + size)
