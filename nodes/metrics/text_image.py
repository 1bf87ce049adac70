"""Scores of how well a picture fits a text, over any pair of towers with a common embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from ..engine.region.region import mask_box
from .checks import check_images, check_mask, check_not_empty, check_one_each

Box = tuple[int, int, int, int]


class Towers(Protocol):
    """Embeddings of pictures `[B,3,H,W]` in 0..1 (any size: the model resizes) and of texts, and their temperature."""

    @property
    def scale(self) -> float:
        """The learnt temperature that multiplies cosines."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit vectors `[B,D]`."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors `[B,D]`."""


class TextImageModel(Towers, Protocol):
    """Towers under the name that their numbers carry."""

    @property
    def backbone(self) -> str:
        """The network's name; "-tiny" at the end for a stand-in."""


def similarity(model: TextImageModel, images: Tensor, texts: Sequence[str]) -> Tensor:
    """The cosine of each picture with its text, `[B]` in -1..1."""
    check_images(images)
    check_one_each(texts, images, "texts")
    with torch.no_grad():
        a, b = model.embed_images(images), model.embed_texts(list(texts))
        return (a.double().cpu() * b.double().cpu()).sum(-1)


def region_crop(image: Tensor, mask: Tensor, margin: float = 0.0, threshold: float = 0.5) -> Tensor:
    """The picture `[3,H,W]` cut to the box of a mask `[H,W]`, `[1,3,h,w]`.

    margin: added on each side as a share of the box's longer side, cut at the frame. threshold: what counts as inside;
    a region fainter than that everywhere is taken where it is above 0.
    """
    used = threshold if bool((mask > threshold).any()) else 0.0
    x0, y0, x1, y1 = mask_box(mask, used)
    grow = round(margin * max(x1 - x0, y1 - y0))
    height, width = image.shape[-2:]
    return image[None, :, max(0, y0 - grow) : min(height, y1 + grow), max(0, x0 - grow) : min(width, x1 + grow)]


def masked_crop_clip_score(
    model: TextImageModel, images: Tensor, mask: Tensor, styles: Sequence[str], fill: float = 0.0
) -> Tensor:
    """LEAST's CLIP score: 100 * cosine of crop_B(I * M) with the style phrase, `[B]` (arXiv:2405.16330, section 4.2).

    fill: the grey outside the mask, 0..1; 0 (black) is the paper's. RegionStyleError for an empty mask, other sizes or
    ranges, or not one style per picture.
    """
    if not 0 <= fill <= 1:
        raise wrong_input("fill", fill, "0 to 1", "0 (black) is the paper's.")
    mask = check_mask(mask, check_images(images))
    check_not_empty(mask, "region")
    check_one_each(styles, images, "styles")
    weight = mask[:, None]
    masked = images * weight + fill * (1 - weight)
    crops = [region_crop(image, part) for image, part in zip(masked, mask, strict=True)]
    return 100 * torch.cat([similarity(model, c, [s]) for c, s in zip(crops, styles, strict=True)])


def preference_score(model: TextImageModel, images: Tensor, prompts: Sequence[str], *, scaled: bool) -> Tensor:
    """PickScore (scaled: the learnt temperature times the cosine) and HPSv2 (not scaled: the cosine), `[B]`."""
    return similarity(model, images, prompts) * (model.scale if scaled else 1.0)


@dataclass(frozen=True)
class NamedTowers:
    """Towers under a name."""

    towers: Towers
    backbone: str

    @property
    def scale(self) -> float:
        return self.towers.scale

    def embed_images(self, images: Tensor) -> Tensor:
        return F.normalize(self.towers.embed_images(images), dim=-1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return F.normalize(self.towers.embed_texts(texts), dim=-1)
