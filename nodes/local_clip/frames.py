"""What is worked on: a window around the region, or the whole picture, and how the result comes back into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.region.boxes import mask_box
from ..engine.region.crop import RegionCrop
from ..engine.region.feather import feather_mask
from ..engine.region.seamless import seamless
from .presets import Preset
from .settings import LocalClipSettings
from .style_network import GRID


class Frame(Protocol):
    """Cuts images `[1,3,H,W]` and masks `[H,W]` to the size worked on, and lays the result back."""

    def cut(self, image: Tensor) -> Tensor:
        """Images `[B,C,H,W]` at the size worked on, `[B,C,h,w]`."""

    def cut_mask(self, mask: Tensor) -> Tensor:
        """A mask `[H,W]` at the size worked on, `[h,w]`."""

    def paste(self, original: Tensor, worked: Tensor, mask: Tensor, feather: int) -> Tensor:
        """The worked window over the original `[B,C,H,W]` through a mask `[H,W]`, which it equals where that is 0."""

    def composite_mask(self, mask: Tensor, feather: int) -> Tensor:
        """The mask that `paste` blends with, `[1,1,H,W]`."""

    @property
    def reduced(self) -> bool:
        """Whether what is worked on has fewer pixels than the picture."""

    @property
    def enlarged(self) -> float:
        """How many times the worked pixels are enlarged to fit the picture; below 1 they are made smaller."""


@dataclass(frozen=True)
class WholeFrame:
    """The whole picture `height` x `width`, worked on at `worked` (height, width)."""

    height: int
    width: int
    worked: tuple[int, int]

    @classmethod
    def of(cls, height: int, width: int, size: int, *, square: bool, grid: int = GRID) -> WholeFrame:
        """Squashed to a square of `size`, or its longer side at `size`; sides are multiples of `grid`."""
        scale = size / max(height, width)
        sides = (size, size) if square else (height * scale, width * scale)
        first, second = (max(1, round(side / grid)) * grid for side in sides)
        return cls(height, width, (first, second))

    @property
    def reduced(self) -> bool:
        return self.worked[0] < self.height or self.worked[1] < self.width

    @property
    def enlarged(self) -> float:
        return max(self.height / self.worked[0], self.width / self.worked[1])

    def cut(self, image: Tensor) -> Tensor:
        return self._resized(image, self.worked)

    def cut_mask(self, mask: Tensor) -> Tensor:
        return F.interpolate(mask[None, None], self.worked, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)

    def composite_mask(self, mask: Tensor, feather: int) -> Tensor:
        return feather_mask(mask[None, None].clamp(0, 1), feather)

    def paste(self, original: Tensor, worked: Tensor, mask: Tensor, feather: int) -> Tensor:
        weight = self.composite_mask(mask, feather).to(original)
        mixed = torch.lerp(original, self._resized(worked, (self.height, self.width)).to(original), weight)
        return torch.where(weight > 0, mixed, original)

    def _resized(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Bicubic, kept within each channel's range."""
        if image.shape[-2:] == size:
            return image.clone()
        limits = image.amin((-2, -1), keepdim=True), image.amax((-2, -1), keepdim=True)
        return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(*limits)


@dataclass(frozen=True)
class WindowFrame:
    """A square window around the region."""

    crop: RegionCrop

    @property
    def reduced(self) -> bool:
        return self.crop.scale < 1

    @property
    def enlarged(self) -> float:
        return 1 / self.crop.scale

    def cut(self, image: Tensor) -> Tensor:
        return self.crop.cut(image)

    def cut_mask(self, mask: Tensor) -> Tensor:
        return self.crop.cut_mask(mask)

    def composite_mask(self, mask: Tensor, feather: int) -> Tensor:
        return self.crop.composite_mask(mask, feather)

    def paste(self, original: Tensor, worked: Tensor, mask: Tensor, feather: int) -> Tensor:
        return self.crop.paste(original, worked, mask, feather)


def frame_of(mask: Tensor, size: int, settings: LocalClipSettings, grid: int = GRID) -> Frame:
    """The frame of a region's mask `[H,W]`, as the preset takes it; its sides are multiples of `grid`.

    RegionStyleError for an empty mask.
    """
    height, width = mask.shape[-2:]
    if settings.preset.frame != "region":
        return WholeFrame.of(int(height), int(width), size, square=settings.preset.frame == "square", grid=grid)
    x0, y0, x1, y1 = mask_box(mask)
    longest = max(x1 - x0, y1 - y0)
    # a region that fits keeps its own pixels: what does not fit beside it is margin
    margin = settings.margin if longest > size else min(settings.margin, (size / longest - 1) / 2)
    crop = RegionCrop.around(mask, native=size, grid=grid, margin=margin, largest_scale=settings.largest_scale)
    return WindowFrame(crop)


def put_back(
    frame: Frame, image: Tensor, begun: Tensor, worked: Tensor, mask: Tensor, settings: LocalClipSettings
) -> tuple[Tensor, Tensor]:
    """The worked frame `[1,3,h,w]` in its image `[1,3,H,W]`, and the mask that was blended with `[1,H,W]`.

    begun `[1,3,H,W]`: the image as the region was at first. Where the mask is 0 the image is returned bit for bit. A
    frame with fewer pixels than the picture would blur it: there what was changed is enlarged, not the picture (preset,
    `enlarge`).
    """
    feather, preset = settings.feather, settings.preset
    if preset.edge == "hard":
        mask, feather = binary_mask(mask), 0
    composite, worked = frame.composite_mask(mask, feather), worked.to(image)
    if settings.blending == "poisson":
        worked = seamless(worked, frame.cut(image), _wholly_inside(frame.cut_mask(binary_mask(mask))).to(image))
    if preset.enlarge == "difference" and frame.reduced:
        return _with_change(frame, image, begun, worked, composite.to(image)), composite[:, 0]
    return frame.paste(image, worked, mask, feather), composite[:, 0]


def _wholly_inside(mask: Tensor) -> Tensor:
    """Where a region's mask `[h,w]` is 1, `[1,1,h,w]`: beside that it has been resized, and pixels are a mixture of the
    region and what is around it. A region so thin that all of it is: wherever there is any."""
    inside = mask > 0.999
    return (inside if bool(inside.any()) else mask > 0)[None, None]


def _with_change(frame: Frame, image: Tensor, begun: Tensor, worked: Tensor, weight: Tensor) -> Tensor:
    """The image with what the worked frame has changed in `begun`, enlarged, where weight `[1,1,H,W]` is above 0."""
    everywhere = (weight[0, 0] > 0).to(weight)
    change = frame.paste(torch.zeros_like(image), worked - frame.cut(begun), everywhere, 0)
    changed = torch.lerp(image, (begun + change).clamp(0, 1), weight)
    return torch.where(weight > 0, changed, image)


def adjusted_contrast(image: Tensor, factor: float) -> Tensor:
    """Every pixel of `[B,3,H,W]` moved away from the picture's mean grey by a factor, as torchvision does it."""
    if factor == 1:
        return image
    weights = image.new_tensor([0.2989, 0.587, 0.114])[:, None, None]
    grey = (image * weights).sum(1, keepdim=True).mean((1, 2, 3), keepdim=True)
    return (factor * image + (1 - factor) * grey).clamp(0, 1)


def fitting_mask(mask: Tensor, preset: Preset) -> Tensor:
    """The mask of a frame `[h,w]` as the losses take it: soft, or cut at 0.5 (a faint one where it is above 0)."""
    return mask if preset.mask == "soft" else binary_mask(mask)


def binary_mask(mask: Tensor) -> Tensor:
    """A mask cut at 0.5, or where it is above 0 when all of it is fainter, so that no region vanishes."""
    return (mask >= 0.5).to(mask) if bool((mask >= 0.5).any()) else (mask > 0).to(mask)
