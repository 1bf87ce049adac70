"""Region crop: the square window a region is worked on in.

The window is cut out with a margin, resized to the network's native size and grid, worked on, and pasted back so that
every pixel whose composited (feathered) mask is exactly 0 equals the input pixel, bit for bit.
Masks are 0..1, 1 is the region to change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import wrong_input
from .boxes import Box, checked_box, mask_box
from .feather import feather_mask, window_fall

# How far a mask's values may lie outside of 0..1.
ROUNDING = 1e-3


@dataclass(frozen=True)
class RegionCrop:
    """A square window of a picture and the size it is worked on at.

    Picture `height` x `width`; window `side` pixels wide, its corner at (`left`, `top`), which lies outside the
    picture where the picture is smaller than the window (the outside repeats the edge pixels); worked on at
    `size` x `size`.
    """

    height: int
    width: int
    top: int
    left: int
    side: int
    size: int

    @classmethod
    def around(
        cls,
        region: Tensor | tuple[float, ...],
        size: tuple[int, int] | None = None,
        *,
        native: int,
        grid: int = 8,
        margin: float = 0.25,
        largest_scale: float = 1.0,
    ) -> RegionCrop:
        """The window for a mask `[...,H,W]` or for a box in a picture of size `(H, W)`.

        native: the side the network was trained at, in pixels, rounded to the nearest multiple of `grid`.
        margin: added on each side, as a share of the box's longer side.
        largest_scale: how far a small region may be enlarged. With 1 it never is: the window is then `native` pixels
        wide, also where the picture is smaller than that; `math.inf` fills the window with the region.
        The window moves inside the picture where it fits and is centred over it where it does not.
        """
        picture, box = _picture_and_box(region, size)
        _check_settings(native, grid, margin, largest_scale)
        worked = int(max(grid, round(native / grid) * grid))
        wanted = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin)
        side = max(1, math.ceil(min(wanted, max(picture))), math.ceil(worked / largest_scale))
        left = _place(box[0], box[2], side, picture[1])
        top = _place(box[1], box[3], side, picture[0])
        return cls(*picture, top, left, side, worked)

    @property
    def scale(self) -> float:
        """Worked pixels per picture pixel."""
        return self.size / self.side

    @property
    def window(self) -> Box:
        """The part of the window that lies inside the picture."""
        bottom, right = self.top + self.side, self.left + self.side
        return max(0, self.left), max(0, self.top), min(self.width, right), min(self.height, bottom)

    def cut(self, image: Tensor) -> Tensor:
        """The window of images `[B,C,H,W]` at the worked size, `[B,C,size,size]` in the same dtype.

        Unchanged pixels where the scale is 1, otherwise antialiased bicubic resizing kept within the image's range.
        Differentiable.
        """
        self._check_picture("image", image, 4)
        return self._worked_on(image, "bicubic")

    def cut_mask(self, mask: Tensor) -> Tensor:
        """The window of a mask `[...,H,W]` at the worked size, `[...,size,size]`, still soft, still 0..1."""
        self._check_mask(mask)
        masks = mask.reshape(-1, 1, self.height, self.width)
        return self._worked_on(masks, "bilinear").reshape(*mask.shape[:-2], self.size, self.size)

    def paste(self, original: Tensor, worked: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
        """Lay the worked window `[B,C,size,size]` over the originals `[B,C,H,W]` through a mask.

        mask `[H,W]`, `[B,H,W]` or `[B,1,H,W]` in 0..1 at the picture's size; `feather` as in `feather_mask`. Returns
        a new tensor in the originals' dtype, equal to them bit for bit where `composite_mask` is 0 and to the worked
        pixels where it is 1. Differentiable. RegionStyleError when the mask reaches out of the window.
        """
        self._check_picture("image", original, 4)
        self._check_worked(original, worked)
        self._check_mask(mask)
        if (masks := math.prod(mask.shape[:-2])) not in (1, len(original)):
            accepts = f"one mask, or one for each of the {len(original)} images"
            raise wrong_input("mask", f"{masks} masks {list(mask.shape)}", accepts, "Pass [H,W] or [B,H,W].")
        x0, y0, x1, y1 = self.window
        back = self._back(worked)
        weight = self.composite_mask(mask, feather)[..., y0:y1, x0:x1].to(original.device)
        result = original.clone()
        result[..., y0:y1, x0:x1] = blend(original[..., y0:y1, x0:x1], back, weight)
        return result

    def composite_mask(self, mask: Tensor, feather: int = 0) -> Tensor:
        """The mask that `paste` blends with, `[1 or B,1,H,W]`: feathered, and 0 outside the window.

        Where the seam does not fit between region and window it also falls towards the window's sides.
        """
        self._check_mask(mask)
        mask = mask.reshape(-1, 1, self.height, self.width).clamp(0, 1)
        x0, y0, x1, y1 = self.window
        inside = mask[..., y0:y1, x0:x1]
        if torch.count_nonzero(inside) != torch.count_nonzero(mask):
            accepts = f"values above 0 only inside the window {self.window}"
            raise wrong_input("mask", f"a region in {mask_box(mask)}", accepts, "Make the crop around this mask.")
        result = torch.zeros_like(mask)
        result[..., y0:y1, x0:x1] = feather_mask(inside, feather) * self._sides(abs(feather)).to(mask)
        return result

    def _sides(self, feather: int) -> Tensor:
        """1 in the window, falling to 0 within `feather` pixels of those of its sides that cross the picture."""
        x0, y0, x1, y1 = self.window
        across = window_fall(x1 - x0, feather, x0 > 0, x1 < self.width)
        down = window_fall(y1 - y0, feather, y0 > 0, y1 < self.height)
        return down[:, None] * across

    def _worked_on(self, image: Tensor, mode: str) -> Tensor:
        """The window of images `[B,C,H,W]` at the worked size; outside of the picture its edge pixels are repeated."""
        if self.side == self.size:
            return self._window_along(self._window_along(image, -1), -2)
        x0, y0, x1, y1 = self.window
        limits, pixels = _limits(image[..., y0:y1, x0:x1]), _exact(image)
        for axes in self._steps():
            for axis in axes:
                pixels = self._window_along(pixels, axis)
            pixels = _resized(pixels, self.size, axes, mode)
        return pixels.clamp(*limits).to(image.dtype)

    def _back(self, worked: Tensor) -> Tensor:
        """The part of a worked window that lies inside the picture, at the picture's scale."""
        pixels = _exact(worked)
        for axes in reversed(self._steps()):
            pixels = pixels if self.side == self.size else _resized(pixels, self.side, axes, "bicubic")
            for axis in axes:
                corner, start, stop = self._span(axis)
                pixels = pixels.narrow(axis, start - corner, stop - start)
        return (pixels if self.side == self.size else pixels.clamp(*_limits(worked))).to(worked.dtype)

    def _steps(self) -> list[tuple[int, ...]]:
        """The axes to resize at a time: both, or one by one where the window reaches out of the picture.

        Then the axis along which the picture is longer goes first when it is cut: of a picture that is long and
        narrow the square window is never held at full size.
        """
        if self.side <= min(self.height, self.width):
            return [(-2, -1)]
        return [(-1,), (-2,)] if self.width >= self.height else [(-2,), (-1,)]

    def _span(self, axis: int) -> tuple[int, int, int]:
        """Along an axis: where the window begins, and where its part inside the picture begins and ends."""
        x0, y0, x1, y1 = self.window
        return (self.left, x0, x1) if axis == -1 else (self.top, y0, y1)

    def _window_along(self, image: Tensor, axis: int) -> Tensor:
        """The window's own pixels along one axis; indices are clamped, which repeats the edge outside."""
        start = self.left if axis == -1 else self.top
        places = torch.arange(start, start + self.side, device=image.device).clamp(0, image.shape[axis] - 1)
        return image.index_select(axis, places)

    def _check_picture(self, name: str, tensor: Tensor, axes: int | None = None) -> None:
        fits = tensor.ndim >= 2 and tuple(tensor.shape[-2:]) == (self.height, self.width)
        if not fits or (axes and tensor.ndim != axes) or not tensor.is_floating_point():
            leading = "[B,C," if axes else "[...,"
            accepts = f"floating point {leading}{self.height},{self.width}], the picture the crop was made for"
            raise wrong_input(name, f"{tensor.dtype} {list(tensor.shape)}", accepts, "Make a crop for each size.")

    def _check_mask(self, mask: Tensor) -> None:
        """Values may leave 0..1 by what rounding does to a resized mask: those are cut."""
        self._check_picture("mask", mask)
        if not mask.numel():
            return
        low, high = (float(value) for value in mask.detach().float().aminmax())
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # also NaN
            raise wrong_input("mask", f"values {low:g}..{high:g}", "0..1", "Scale the mask, without NaN.")

    def _check_worked(self, original: Tensor, worked: Tensor) -> None:
        expected = (*original.shape[:2], self.size, self.size)
        if tuple(worked.shape) != expected:
            raise wrong_input("worked", list(worked.shape), str(list(expected)), "Paste what `cut` gave, at its size.")


def _picture_and_box(region: Tensor | tuple[float, ...], size: tuple[int, int] | None) -> tuple[tuple[int, int], Box]:
    """Size and box of a mask, or a box checked against the size given with it."""
    if isinstance(region, Tensor):
        box = mask_box(region)
        shape = int(region.shape[-2]), int(region.shape[-1])
        if size is not None and tuple(size) != shape:
            raise wrong_input("mask", list(shape), f"the picture's size {list(size)}", "Resize the mask first.")
        return shape, box
    if size is None or len(size) != 2:
        got = "nothing" if size is None else tuple(size)
        raise wrong_input(
            "size", got, "(height, width) of the picture, when a box is given", "Pass the picture's size."
        )
    return (int(size[0]), int(size[1])), checked_box(tuple(region), size)


def _check_settings(native: int, grid: int, margin: float, largest_scale: float) -> None:
    for name, value, fits, accepts in (
        ("native", native, 1 <= native < math.inf, "1 pixel or more"),
        ("grid", grid, grid >= 1 and grid == int(grid), "a whole number of pixels, 1 or more"),
        ("margin", margin, 0 <= margin < math.inf, "0 or more"),
        ("largest_scale", largest_scale, largest_scale > 0, "more than 0"),
    ):
        if not fits:
            raise wrong_input(name, value, accepts, "See RegionCrop.around.")


def _place(start: int, stop: int, side: int, length: int) -> int:
    """Where a window of `side` begins on an axis of `length`: centred on start..stop, inside the picture if it fits."""
    if side >= length:
        return -((side - length) // 2)
    return min(max(0, (start + stop - side) // 2), length - side)


def _exact(image: Tensor) -> Tensor:
    """In float32, or float64 if it is that."""
    return image if image.dtype == torch.float64 else image.float()


def _limits(image: Tensor) -> tuple[Tensor, Tensor]:
    """The range of each image's channel: bicubic overshoot is cut back to it."""
    exact = _exact(image)
    return exact.amin((-2, -1), keepdim=True), exact.amax((-2, -1), keepdim=True)


def _resized(image: Tensor, size: int, axes: tuple[int, ...], mode: str) -> Tensor:
    """Images `[B,C,h,w]` with some of their last two axes at another size."""
    height, width = (size if axis in axes else image.shape[axis] for axis in (-2, -1))
    if image.shape[-1] == width == 1:  # torch 2.11 reads the wrong rows of such a picture when it antialiases
        return _resized(image.mT, size, (-1,), mode).mT
    return F.interpolate(image, (height, width), mode=mode, antialias=True)


def blend(original: Tensor, worked: Tensor, weight: Tensor) -> Tensor:
    """original where weight is 0 (also when worked is not finite there), worked where it is 1, between: linear."""
    dtype = torch.promote_types(original.dtype, torch.float32)
    worked, weight = worked.to(original.device, dtype), weight.to(dtype)
    mixed = torch.lerp(original.to(dtype), worked, weight.expand_as(original)).to(original.dtype)
    return torch.where(weight > 0, mixed, original)
