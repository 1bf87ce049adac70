"""A generator on pictures of any size: in tiles that overlap by what the network sees, so no seam can arise.

A tile is cut with a margin as wide as the network's receptive field reaches; the margin is worked on and thrown away.
What stays is what the network makes of the whole picture, up to rounding. Tiles begin on multiples of the stride.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...engine.host.memory import with_halving
from ...engine.region.feather import feather_mask
from ..settings import ApplySettings
from .files import StyleGenerator
from .network import Architecture

TILE = ApplySettings.tile  # side in pixels, without the margin
PREVIEW = 512
Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels, the last two exclusive


@dataclass(frozen=True)
class Tile:
    """A window of a picture and the part of it that is kept."""

    window: Box
    core: Box

    @property
    def kept(self) -> Box:
        """Where the core lies in the window."""
        top, left = self.window[:2]
        return self.core[0] - top, self.core[1] - left, self.core[2] - top, self.core[3] - left


def tiles(height: int, width: int, side: int, architecture: Architecture) -> list[Tile]:
    """Tiles whose cores cover a picture once; all numbers are multiples of the stride, `side` is rounded to one."""
    stride = architecture.stride
    margin = math.ceil(architecture.radius / stride) * stride
    side = max(stride, side // stride * stride)
    corners = [(top, left) for top in range(0, height, side) for left in range(0, width, side)]
    cores = [(top, left, min(top + side, height), min(left + side, width)) for top, left in corners]
    return [Tile(_grown(core, margin, height, width), core) for core in cores]


def _grown(box: Box, by: int, height: int, width: int) -> Box:
    top, left, bottom, right = box
    return max(0, top - by), max(0, left - by), min(height, bottom + by), min(width, right + by)


@torch.no_grad()
def apply_generator(
    generator: StyleGenerator, images: Tensor, host: Host, *, mask: Tensor | None = None, feather: int = 0,
    tile: int = TILE,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Images `[B,3,H,W]` in 0..1 in the generator's style, and the composited masks `[B,H,W]`; both on the CPU.

    mask `[B,H,W]` in 0..1: where the composited mask is 0 the picture stays bit for bit, and tiles without a region are
    not worked on; None: the whole picture. feather: seam in pixels (negative: inwards). tile: side in pixels; smaller
    ones need less memory and are tried where it runs out. Shows each tile as it is done and can be cancelled there.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
        raise wrong_input("images", list(images.shape), "[B,3,H,W]", "Give pictures with three colours.")
    if tile < 1:
        raise wrong_input("tile", tile, "1 pixel or more", f"{TILE} fits most devices.")
    if mask is not None and tuple(mask.shape) != (len(images), *images.shape[-2:]):
        accepts = f"[{len(images)},{images.shape[-2]},{images.shape[-1]}]"
        raise wrong_input("mask", list(mask.shape), accepts, "Give one mask for each picture, of its size.")
    images = images.float().cpu()
    blended = torch.ones(len(images), *images.shape[-2:]) if mask is None else feather_mask(mask.float().cpu(), feather)
    host.load(generator.network)

    def run(side: int) -> Tensor:
        return _worked(generator, images, blended, host, side)

    stylized = with_halving(run, tile, host=host, name="tile", smallest=min(tile, 64), multiple=4)
    return stylized, blended


def _worked(generator: StyleGenerator, images: Tensor, blended: Tensor, host: Host, side: int) -> Tensor:
    """All pictures in tiles of one size, blended into the originals."""
    architecture = generator.network.architecture
    padded = _padded(images, architecture.stride)
    to_paint = [
        (number, tile)
        for number in range(len(images))
        for tile in tiles(padded.shape[-2], padded.shape[-1], side, architecture)
    ]
    to_paint = [(number, tile) for number, tile in to_paint if bool((_cut(blended[number], tile.core) > 0).any())]
    result, progress = images.clone(), host.progress(max(1, len(to_paint)), "applying the generator")
    progress.update(0)
    for done, (number, tile) in enumerate(to_paint, start=1):
        part = _cut(padded[number], tile.window)[None].to(host.device)
        painted = _cut(generator.network(part)[0], tile.kept).clamp(0, 1).cpu()
        _blend(_cut(result[number], tile.core), painted, _cut(blended[number], tile.core))
        progress.update(done, _small(result[number]))
    return result


def _blend(original: Tensor, painted: Tensor, weight: Tensor) -> None:
    """Change `original` `[3,h,w]` in place; where the weight is 0 it keeps its own bits."""
    painted = _cut(painted, (0, 0, *weight.shape))  # without what was padded
    original.copy_(torch.where(weight > 0, torch.lerp(original, painted, weight), original))


def _padded(images: Tensor, stride: int) -> Tensor:
    """Sides that are multiples of the stride, the last row and column repeated."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % stride, 0, -height % stride), mode="replicate")


def _cut(image: Tensor, box: Box) -> Tensor:
    """A view of a window of `[...,H,W]`."""
    return image[..., box[0] : box[2], box[1] : box[3]]


def _small(image: Tensor) -> Tensor:
    """A preview `[3,h,w]`: at most 512 pixels wide, by leaving out pixels."""
    step = max(1, math.ceil(max(image.shape[-2:]) / PREVIEW))
    return image[:, ::step, ::step]
