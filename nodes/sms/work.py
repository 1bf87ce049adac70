"""What SMS works on: a crop of each picture at the network's native size, or a canvas at the picture's own in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from ..engine.predictor.base import NoisePredictor
from ..engine.region.enlarged import SMEAR, enlarged_note
from ..engine.region.region import RegionCrop, feather_mask
from ..engine.tiles.canvas import Canvas
from ..engine.tiles.grid import TileGrid
from ..engine.tiles.predictor import TiledPredictor
from .settings import Framing

SHARPER = "Choose detail auto, full or both to work at the picture's own size."
LONGEST = 2  # times the native size: the longer side of a whole picture, or memory would grow with its length
CONTEXT = 8  # the part of a tile's side that is worked on around a region, so that it ends in the picture


class Work(Protocol):
    """Pictures `[B,3,H,W]` and their masks `[B,H,W]` (None: all of them) as they are worked on.

    note: what there is to say of a result's sharpness, "" for nothing; tiles: how many an iteration takes, 0 for none.
    """

    @property
    def note(self) -> str: ...

    @property
    def tiles(self) -> int: ...

    def over(self, predictor: NoisePredictor) -> NoisePredictor:
        """A predictor for what `cut` gives."""

    def cut(self, images: Tensor) -> Tensor:
        """Pictures as they are worked on, `[B,3,h,w]`."""

    def latent_mask(self, latent: Tensor) -> Tensor | None:
        """1 on every latent cell that the region touches, `[B,1,h,w]`; None: everywhere."""

    def inpainting(self, predictor: NoisePredictor) -> AbstractContextManager[None]:
        """A block in which a network for inpainting is told the regions and the pictures around them."""

    def paste(self, stylized: Tensor) -> tuple[Tensor, Tensor]:
        """What was worked on back in its pictures, and the masks it was blended with `[B,H,W]`."""


def works_of(predictor: NoisePredictor, images: Tensor, masks: Tensor | None, framing: Framing) -> list[Work]:
    """One after the other: the crop, the tiles, or both, as `framing.detail` says.

    "auto": the crop, or the tiles where it would be enlarged more than 1.5 times. RegionStyleError for an empty mask.
    """
    for number, mask in enumerate(masks if masks is not None else []):
        if not bool((mask > 0).any()):
            raise wrong_input(f"mask of picture {number}", "no value above 0", "a region to change", "Draw one.")
    crop = CropWork(predictor, images, masks, framing)
    detail = framing.detail
    if detail == "auto":
        detail = "full" if crop.enlarged > SMEAR else "native"
    if detail == "native":
        return [crop]
    tiled = TileWork(predictor, images, masks, framing)
    return [tiled] if detail == "full" else [crop, tiled]


class CropWork:
    """A crop around each mask, or the whole at the network's native size."""

    tiles = 0

    def __init__(self, predictor: NoisePredictor, images: Tensor, masks: Tensor | None, framing: Framing) -> None:
        self.images, self.masks, self.framing = images, masks, framing
        self.native, self.grid = predictor.native_size, predictor.factor
        self.crops = [self._crop(mask) for mask in masks] if masks is not None else []

    def _crop(self, mask: Tensor) -> RegionCrop:
        margin, scale = self.framing.margin, self.framing.largest_scale
        return RegionCrop.around(mask, native=self.native, grid=self.grid, margin=margin, largest_scale=scale)

    def over(self, predictor: NoisePredictor) -> NoisePredictor:
        return predictor

    def cut(self, images: Tensor) -> Tensor:
        if self.crops:
            return torch.cat([crop.cut(image[None]) for crop, image in zip(self.crops, images, strict=True)])
        return F.interpolate(images, self._whole_size(), mode="bicubic", antialias=True).clamp(0, 1)

    def _whole_size(self) -> tuple[int, int]:
        """The shorter side at the native size, the longer at most `LONGEST` times that, both multiples of the grid."""
        height, width = self.images.shape[-2:]
        scale = min(self.native / min(height, width), LONGEST * self.native / max(height, width))
        rounded = [max(1, round(side * scale / self.grid)) * self.grid for side in (height, width)]
        return rounded[0], rounded[1]

    @property
    def enlarged(self) -> float:
        """How many times the worked pixels are enlarged to fit their picture, at most."""
        return max([1 / crop.scale for crop in self.crops] or [max(self.images.shape[-2:]) / max(self._whole_size())])

    @property
    def note(self) -> str:
        return enlarged_note(self.enlarged, self.native, SHARPER)

    def latent_mask(self, latent: Tensor) -> Tensor | None:
        return None if self.masks is None else _touched(self._cut_masks(self.masks), latent)

    def _cut_masks(self, masks: Tensor) -> Tensor:
        """Every picture's mask in its crop, `[B,n,n]`."""
        return torch.stack([crop.cut_mask(mask) for crop, mask in zip(self.crops, masks, strict=True)])

    def inpainting(self, predictor: NoisePredictor) -> AbstractContextManager[None]:
        if self.masks is None:
            return nullcontext()
        return predictor.inpainting(self.cut(self.images), (self._cut_masks(self.masks) > 0).float())

    def paste(self, stylized: Tensor) -> tuple[Tensor, Tensor]:
        height, width = self.images.shape[-2:]
        if self.masks is None:
            whole = F.interpolate(stylized, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
            return whole, torch.ones(len(whole), height, width)
        feather = self.framing.feather
        parts = list(zip(self.crops, self.images, stylized, self.masks, strict=True))
        pasted = [crop.paste(image[None], cut[None], mask, feather) for crop, image, cut, mask in parts]
        blended = [crop.composite_mask(mask, feather)[0, 0] for crop, _, _, mask in parts]
        return torch.cat(pasted), torch.stack(blended)


class TileWork:
    """A canvas around each mask, or the whole, at the picture's own size: the network sees it tile by tile.

    All canvases are of one size, so that the pictures of a batch share their tiles.
    """

    note = ""

    def __init__(self, predictor: NoisePredictor, images: Tensor, masks: Tensor | None, framing: Framing) -> None:
        self.images, self.masks = images, masks
        self.feather = 0 if masks is None else framing.feather  # the whole has no seam
        factor, side = predictor.factor, max(1, round(predictor.native_size / predictor.factor))
        native, reach = side * factor, max(factor, self.feather)
        regions: Sequence[Tensor] = [torch.ones(images.shape[-2:])] if masks is None else list(masks)
        context = max(native // CONTEXT, reach)
        canvases = Canvas.of_one_size(regions, native=native, factor=factor, context=context)
        self.canvases = canvases * (len(images) if masks is None else 1)
        self._grid = TileGrid.over(canvases[0].cells, side, factor)
        grown = [feather_mask((one.cut(mask) > 0).float(), reach) for one, mask in zip(canvases, regions, strict=True)]
        self._corners = self._grid.touching(torch.stack(grown).amax(0))
        self.tiles = len(self._corners)

    def over(self, predictor: NoisePredictor) -> NoisePredictor:
        return TiledPredictor(predictor, self._grid, self._corners)

    def cut(self, images: Tensor) -> Tensor:
        return torch.stack([canvas.cut(image) for canvas, image in zip(self.canvases, images, strict=True)])

    def latent_mask(self, latent: Tensor) -> Tensor | None:
        return None if self.masks is None else _touched(self.cut(self.masks), latent)

    def inpainting(self, predictor: NoisePredictor) -> AbstractContextManager[None]:
        if self.masks is None:
            return nullcontext()
        return predictor.inpainting(self.cut(self.images), (self.cut(self.masks) > 0).float())

    def paste(self, stylized: Tensor) -> tuple[Tensor, Tensor]:
        masks = torch.ones(len(self.images), *self.images.shape[-2:]) if self.masks is None else self.masks
        parts = zip(self.canvases, self.images, stylized, masks, strict=True)
        pasted = [canvas.paste(image[None], cut[None], mask, self.feather) for canvas, image, cut, mask in parts]
        return torch.cat([image for image, _ in pasted]), torch.stack([weight for _, weight in pasted])


def _touched(masks: Tensor, latent: Tensor) -> Tensor:
    """1 on every cell of a latent that masks `[B,H,W]` touch, `[B,1,h,w]`."""
    return F.adaptive_max_pool2d((masks > 0).float()[:, None], latent.shape[-2:]).to(latent)
