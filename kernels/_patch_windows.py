"""Patches one after another, on the CPU: each is read from its own small window, while that is in the cache."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def window_patches(image: Tensor, start: Tensor, side: Tensor, homography: Tensor, size: int, fill: float) -> Tensor:
    """Windows of images `[B,C,H,W]` seen through homographies, `[B,N,C,size,size]`; first derivatives only.

    start `[B,N,2]` (x, y) and side `[B,N]` in whole pixels; homography `[B,N,3,3]` takes seen pixel centres to those of
    the window. Outside a window reads `fill`, as if the window were padded with a ring of it. The grids are made anew
    in the backward pass: that is a tenth of the time, and a picture's patches need no memory beside themselves.
    """
    result: Tensor = _WindowPatches.apply(image, start, side, homography, size, fill)  # type: ignore[no-untyped-call]
    return result


class _WindowPatches(Function):
    """`window_patches` with its gradient in the image."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, start: Tensor, side: Tensor, homography: Tensor, size: int, fill: float
    ) -> Any:
        grids = _Grids(start, side, homography, size)
        result = image.new_empty(*start.shape[:2], image.shape[1], size, size)
        for place in grids.places():
            window = grids.window(image, place) - fill
            read = F.grid_sample(window, grids.grid(place), padding_mode="zeros", align_corners=False)
            torch.add(read[0], fill, out=result[place])
        ctx.shape, ctx.size = image.shape, size
        ctx.save_for_backward(start, side, homography)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        start, side, homography = ctx.saved_tensors
        grids, total = _Grids(start, side, homography, ctx.size), grad.new_zeros(ctx.shape)
        for place in grids.places():
            window = grids.window(total, place)
            # the gradient with respect to the window does not depend on what stands in it
            arguments = (grad[place][None].contiguous(), window, grids.grid(place), 0, 0, False, [True, False])
            window += torch.ops.aten.grid_sampler_2d_backward(*arguments)[0]
        return total, None, None, None, None, None


class _Grids:
    """Where each patch reads its window, in the coordinates -1..1 of `grid_sample`."""

    def __init__(self, start: Tensor, side: Tensor, homography: Tensor, size: int) -> None:
        self._start, self._side = start.long().tolist(), side.long().tolist()
        pixel = torch.arange(size, dtype=homography.dtype, device=homography.device) + 0.5
        n = side[..., None]
        # resizing repeats the edge pixels of the seen picture: half a pixel from its border is where they end
        self._seen = torch.minimum((pixel * n / size).clamp_min(0.5), n - 0.5)
        across, down, depth = homography.unbind(-2)
        scaled = [row * (2 / n) - depth for row in (across, down)]
        self._rows = torch.stack([*scaled, depth], -2)
        self._steep = self._has_horizon(depth)

    def _has_horizon(self, depth: Tensor) -> list[list[bool]]:
        """For which patches the depth, linear in both directions, comes near 0: there a position may be no number."""
        ends = self._seen[..., [0, -1]]
        corners = depth[..., 0, None, None] * ends[..., None, :] + depth[..., 1, None, None] * ends[..., None]
        corners = (corners + depth[..., 2, None, None]).flatten(-2)
        nearest = torch.maximum(corners.amin(-1), -corners.amax(-1))
        return (~(nearest > 1e-3 * corners.abs().amax(-1))).tolist()  # type: ignore[no-any-return]

    def places(self) -> list[tuple[int, int]]:
        return [(sample, patch) for sample, row in enumerate(self._start) for patch in range(len(row))]

    def window(self, images: Tensor, place: tuple[int, int]) -> Tensor:
        """A view `[1,C,n,n]`."""
        sample, patch = place
        (x, y), n = self._start[sample][patch], self._side[sample][patch]
        return images[sample : sample + 1, :, y : y + n, x : x + n]

    def grid(self, place: tuple[int, int]) -> Tensor:
        """`[1,size,size,2]`."""
        u, rows = self._seen[place], self._rows[place].tolist()
        depth = self._plane(u, rows[2]).reciprocal_()
        result = u.new_empty(1, len(u), len(u), 2)
        for axis in range(2):
            torch.mul(self._plane(u, rows[axis]), depth, out=result[0, ..., axis])
        if self._steep[place[0]][place[1]]:
            result = result.nan_to_num(nan=3.0).clamp(-3, 3)  # 3 lies outside of every window
        return result

    def _plane(self, u: Tensor, row: list[float]) -> Tensor:
        """a x + b y + c on all pairs of positions."""
        return (u * row[0])[None, :] + torch.add(u * row[1], row[2])[:, None]
