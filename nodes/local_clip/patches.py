"""Random patches of a region, in random perspectives, at one scale or three (LEAST, section 3.2: patch loss)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import sample_patches
from ..engine.region.boxes import Box
from .losses import exact
from .settings import PATCH_OF, LocalClipSettings

LEAST_COVERAGE = 0.3  # share of a patch that the mask must cover for it to count
SCALES = {"one": (1.0,), "three": (1.0, 0.5, 2.0)}


@dataclass(frozen=True)
class Drawn:
    """patches `[N,3,s,s]`, differentiable in the picture; before: the content's at the same places, or None; weights
    `[N]`: how much each counts."""

    patches: Tensor
    before: Tensor | None
    weights: Tensor

    def counted(self) -> Drawn:
        """Without the patches of weight 0; all of them where no other is left."""
        rows = self.weights > 0
        if bool(rows.all()) or not bool(rows.any()):
            return self
        return Drawn(self.patches[rows], None if self.before is None else self.before[rows], self.weights[rows])


class PatchSampler:
    """Draws the patches of one region. content `[1,3,h,w]`; mask `[1,1,h,w]`; size: side they are resized to."""

    def __init__(
        self, content: Tensor, mask: Tensor, box: Box, size: int, settings: LocalClipSettings, random: torch.Generator
    ) -> None:
        self._settings, self._size, self._random = settings, size, random
        self._box, self._frame = box, (int(content.shape[-2]), int(content.shape[-1]))
        self._fixed = torch.cat([content, mask.to(content)], 1)

    def draw(self, picture: Tensor) -> Drawn:
        """New patches of a picture `[1,3,h,w]`, those of them that count."""
        parts = [self._at_scale(picture, side, count) for side, count in self._sides()]
        patches, fixed = (torch.cat(each) for each in zip(*parts, strict=True))
        same_place = self._settings.preset.patch_reference == "same place"
        return Drawn(patches, fixed[:, :3] if same_place else None, self._weights(fixed[:, 3])).counted()

    def _sides(self) -> list[tuple[int, int]]:
        """Side in pixels of the frame and number of patches, for each scale."""
        scales = SCALES[self._settings.scales]
        usual = self._settings.patch * min(self._frame) / PATCH_OF
        count, rest = divmod(self._settings.patches, len(scales))
        counts = [count + (index < rest) for index in range(len(scales))]
        return [(max(1, round(usual * s)), n) for s, n in zip(scales, counts, strict=True) if n]

    def _at_scale(self, picture: Tensor, side: int, count: int) -> tuple[Tensor, Tensor]:
        """Patches of the picture and, without gradient, of content and mask at the same places, `[n,C,s,s]`."""
        boxes = torch.tensor([self._room(side)])
        state, distortion = self._random.get_state(), self._settings.preset.distortion

        def seen(pixels: Tensor) -> Tensor:
            return sample_patches(
                pixels, boxes, count, side, self._size, distortion=distortion, generator=self._random
            )[0]

        patches = seen(picture)
        self._random.set_state(state)
        with torch.no_grad():
            return patches, seen(self._fixed)

    def _room(self, side: int) -> Box:
        """Where patches lie: the region's box, which for the reference is at least one patch wide and high."""
        if self._settings.preset.patch_room == "shrink":
            return self._box
        height, width = self._frame
        (x0, x1), (y0, y1) = (
            _grown(self._box[0], self._box[2], side, width),
            _grown(self._box[1], self._box[3], side, height),
        )
        return x0, y0, x1, y1

    def _weights(self, coverage: Tensor) -> Tensor:
        """How much each patch counts, `[N]`; coverage: the mask's patches `[N,s,s]`.

        By coverage, those that show too little of the region are left out. A region so thin that few patches show
        enough of it keeps those that show the most.
        """
        count, preset = len(coverage), self._settings.preset
        total = 1.0 if preset.reduction == "mean" else float(count)
        if preset.patch_weighting == "alike":
            return coverage.new_full((count,), total / count)
        covered = exact(coverage).mean((1, 2))
        covered = torch.where(covered < min(LEAST_COVERAGE, float(covered.max()) / 2), 0, covered)
        return total * covered / covered.sum().clamp_min(1e-12)


def _grown(start: int, stop: int, side: int, length: int) -> tuple[int, int]:
    """An interval in which windows of `side` lie: itself, or, where it is shorter, all windows that hold it."""
    return (start, stop) if stop - start >= side else (max(0, stop - side), min(length, start + side))
