"""Canvas: the rectangle of a picture, at the picture's own scale, that is worked on in tiles.

It lies on the latent grid of the picture's top left corner, so the same place of a picture is the same latent cell
whatever region it belongs to. Where it reaches out of the picture, the edge pixels are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..region.boxes import Box, mask_box
from ..region.crop import blend
from ..region.feather import feather_mask


@dataclass(frozen=True)
class Canvas:
    """`height` x `width` pixels with the corner (`top`, `left`), of a picture of size `picture` (height, width).

    All four are multiples of `factor`, the pixels of a latent cell.
    """

    picture: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    factor: int

    @classmethod
    def around(cls, mask: Tensor, *, native: int, factor: int, context: int, least: tuple[int, int] = (0, 0)) -> Canvas:
        """The canvas of a mask `[H,W]` with `context` pixels around it, at least `native` pixels on each side.

        least: a larger (height, width) that it has at least. RegionStyleError for an empty mask.
        """
        x0, y0, x1, y1 = mask_box(mask)
        picture = int(mask.shape[-2]), int(mask.shape[-1])
        rows, columns = (-(-max(native, side) // factor) * factor for side in least)
        top, height = _span(y0, y1, picture[0], rows, factor, context)
        left, width = _span(x0, x1, picture[1], columns, factor, context)
        return cls(picture, top, left, height, width, factor)

    @classmethod
    def of_one_size(cls, masks: Sequence[Tensor], *, native: int, factor: int, context: int) -> list[Canvas]:
        """As `around`, the canvases of masks `[H,W]` of pictures of one size, all as large as the largest."""
        each = [cls.around(mask, native=native, factor=factor, context=context) for mask in masks]
        largest = max(one.height for one in each), max(one.width for one in each)
        return [cls.around(mask, native=native, factor=factor, context=context, least=largest) for mask in masks]

    @property
    def cells(self) -> tuple[int, int]:
        """Its size in latent cells, (height, width)."""
        return self.height // self.factor, self.width // self.factor

    @property
    def cell_corner(self) -> tuple[int, int]:
        """Its corner in latent cells of the picture, (row, column)."""
        return self.top // self.factor, self.left // self.factor

    @property
    def window(self) -> Box:
        """The part of it inside the picture, (x0, y0, x1, y1)."""
        height, width = self.picture
        bottom, right = min(height, self.top + self.height), min(width, self.left + self.width)
        return max(0, self.left), max(0, self.top), right, bottom

    def cut(self, values: Tensor) -> Tensor:
        """Its part of pictures or masks `[...,H,W]`, `[...,height,width]`, the same pixels."""
        rows = torch.arange(self.top, self.top + self.height, device=values.device).clamp(0, self.picture[0] - 1)
        columns = torch.arange(self.left, self.left + self.width, device=values.device).clamp(0, self.picture[1] - 1)
        return values.index_select(-2, rows).index_select(-1, columns)

    def paste(self, original: Tensor, worked: Tensor, mask: Tensor, feather: int) -> tuple[Tensor, Tensor]:
        """A worked canvas `[1,3,height,width]` blended into a picture `[1,3,H,W]`, and the composited mask `[H,W]`.

        mask `[H,W]` in 0..1, empty outside of the canvas and, unless at the picture's frame, empty within the larger
        of 0 and `feather` pixels (`feather_mask`) of its sides. Where the composited mask is 0 the picture stays bit
        for bit.
        """
        x0, y0, x1, y1 = self.window
        weight = torch.zeros_like(mask)
        weight[y0:y1, x0:x1] = feather_mask(mask[y0:y1, x0:x1].clamp(0, 1), feather)
        part = worked[..., y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left].to(original)
        result = original.clone()
        result[..., y0:y1, x0:x1] = blend(original[..., y0:y1, x0:x1], part, weight[y0:y1, x0:x1].to(original.device))
        return result, weight


def _span(start: int, stop: int, length: int, least: int, factor: int, context: int) -> tuple[int, int]:
    """Where the canvas begins along an axis of the picture, and how long it is there."""
    first = max(0, start - context) // factor * factor
    end = -(-min(length, stop + context) // factor) * factor
    lacking = max(0, least - (end - first))
    if lacking:
        last = -(-length // factor) * factor  # the picture's end, rounded up to whole cells
        first = max(0, min(first - lacking // 2 // factor * factor, last - least))
        end = max(end, first + least)
    return first, end - first
