"""A foreground laid into a background."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .base import check_picture, check_region
from .settings import PlaceSettings


def lay_into(foreground: Tensor, mask: Tensor, background: Tensor, place: PlaceSettings) -> tuple[Tensor, Tensor]:
    """The composite `[B,3,H,W]` of the background's size and the foreground's mask in it `[B,1,H,W]`.

    foreground `[B,3,h,w]` with mask `[B,1,h,w]`, all in 0..1; background `[B,3,H,W]` or one for all. A soft mask mixes
    linearly; where it is 0 the background stays bit for bit. What lies beyond the background is cut off.
    RegionStyleError for a place where nothing of the foreground is seen.
    """
    canvas, region = on_canvas(foreground, mask, background, place)
    mixed = torch.lerp(background, canvas, region.expand_as(canvas))
    return torch.where(region > 0, mixed, background), region


def on_canvas(foreground: Tensor, mask: Tensor, background: Tensor, place: PlaceSettings) -> tuple[Tensor, Tensor]:
    """The foreground `[B,3,H,W]` and its mask `[B,1,H,W]` on a canvas of the background's size.

    Beyond the foreground's picture its border's colours go on, so that differences there are 0.
    """
    check_picture(foreground, "foreground")
    check_region(mask, foreground, "mask")
    check_picture(background, "background")
    count = max(len(foreground), len(background))
    if len(foreground) != len(background) and 1 not in (len(foreground), len(background)):
        got = f"{len(background)} pictures for {len(foreground)} foregrounds"
        raise wrong_input("background", got, "one, or one for each foreground", "Repeat or select pictures.")
    size = [max(1, round(n * place.scale)) for n in foreground.shape[-2:]]
    if max(size) > 32768:
        raise wrong_input("scale", place.scale, "a foreground of at most 32768 pixels a side", "Make it smaller.")
    if size != list(foreground.shape[-2:]):
        foreground, mask = (
            F.interpolate(x, size, mode="bilinear", antialias=True).clamp(0, 1) for x in (foreground, mask)
        )
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


def _within(length: int, start: int, size: int) -> Tensor:
    at = torch.arange(length)
    return (at >= start) & (at < start + size)
