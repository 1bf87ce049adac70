"""The pictures of a style: where they come from, what each shows, and the crops an expert is trained on."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.pictures import caption_of, read_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FEWEST = 3  # with fewer, pictures are learnt by heart instead of their style
USUAL = "About ten are usual"
PLAIN = "a picture"  # what is said of a picture without a caption


@dataclass(frozen=True)
class StylePicture:
    """name: for messages; caption: what it shows, or ""; read: gives it as `[3,H,W]` in 0..1."""

    name: str
    caption: str
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Cropping:
    """How pictures become training pictures of `side` x `side` pixels.

    smallest: a crop's side is drawn between this share of the shorter side and all of it, its place at random; count:
    crops per picture, where they differ; flip: whether each is used mirrored too.
    """

    side: int
    smallest: float = 1.0
    count: int = 8
    flip: bool = True

    def __post_init__(self) -> None:
        if not 0.1 <= self.smallest <= 1:
            raise wrong_input("crop", self.smallest, "0.1 to 1", "1 keeps the whole shorter side.")
        if self.side < 8 or self.count < 1:
            got = f"{self.side} and {self.count}"
            raise wrong_input("resolution, crops", got, "at least 8 and 1", "Use the model's own size.")


def pictures_of_folder(folder: Path) -> list[StylePicture]:
    """The pictures in a folder by name, each with the caption in the .txt file beside it, if there is one.

    Other files and subfolders are passed over. RegionStyleError for a folder that is missing or holds no pictures.
    """
    if not folder.is_dir():
        raise wrong_input("images", repr(str(folder)), "a folder with pictures", "There is no such folder.")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        accepts = f"{FEWEST} or more pictures ({', '.join(SUFFIXES)})"
        raise wrong_input("images", f"no picture in {str(folder)!r}", accepts, f"Put some there. {USUAL}.")
    return [StylePicture(f.name, caption_of(f), partial(_read, f)) for f in files]


def _read(path: Path) -> Tensor:
    return read_image(path)[0]


def pictures_of_batch(images: Tensor, captions: Sequence[str]) -> list[StylePicture]:
    """Images `[B,3,H,W]` with no captions, or one each (an empty one is none)."""
    captions = list(captions) or [""] * len(images)
    if len(captions) != len(images):
        accepts = f"{len(images)}, one per picture, or none"
        raise wrong_input("captions", f"{len(captions)} lines", accepts, "Leave a line empty for no caption.")
    numbered = enumerate(zip(images, captions, strict=True), 1)
    return [StylePicture(f"picture {i}", text.strip(), lambda image=image: image) for i, (image, text) in numbered]  # type: ignore[misc]


def prompt_of(caption: str, style: str) -> str:
    """What a picture is called in training, as the pack's other prompts name styles: "a red star in mosaic style".

    A caption that names the style by itself stays as it is; without a caption the style's words stand alone.
    """
    if caption and style.lower() in caption.lower():
        return caption
    words = style if style.lower().endswith("style") else f"{style} style"
    return f"{caption or PLAIN} in {words}"


@dataclass(frozen=True, eq=False)
class Crops:
    """The training pictures: `images(number)` gives the crops of a picture."""

    pictures: Sequence[StylePicture]
    cropping: Cropping
    seed: int

    def __post_init__(self) -> None:
        if len(self.pictures) < FEWEST:
            got, accepts = f"{len(self.pictures)} pictures", f"{FEWEST} or more"
            raise wrong_input("images", got, accepts, f"{USUAL}: with so few they are learnt by heart.")

    def images(self, number: int) -> tuple[Tensor, str]:
        """The crops `[V,3,side,side]` of one picture, mirrored ones behind the others, and its fingerprint."""
        picture = self._read(number)
        windows = self._windows(number, picture.shape[-2], picture.shape[-1])
        crops = torch.stack([_cut(picture, window, self.cropping.side) for window in windows])
        fingerprint = hashlib.sha256(picture.float().cpu().contiguous().numpy().tobytes()).hexdigest()
        return (torch.cat([crops, crops.flip(-1)]) if self.cropping.flip else crops), fingerprint

    def _read(self, number: int) -> Tensor:
        picture = self.pictures[number].read()
        side, name = min(picture.shape[-2:]), self.pictures[number].name
        if side < 8:
            raise wrong_input("images", f"{name} with {side} pixels", "8 pixels or more", "Leave it out.")
        if side * self.cropping.smallest * 2 < self.cropping.side:
            text = "%s is small for training at %d px: its shorter side has %d px"
            logging.getLogger("regionstyle").warning(text, name, self.cropping.side, side)
        return picture

    def _windows(self, number: int, height: int, width: int) -> list[tuple[int, int, int]]:
        """Top, left and side of each crop; one only where there is no choice."""
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, number))
        fixed = self.cropping.smallest == 1 and height == width
        draws = torch.rand(1 if fixed else self.cropping.count, 3, generator=generator, dtype=torch.float64).tolist()
        low, windows = self.cropping.smallest, []
        for share, down, across in draws:
            side = max(8, round(min(height, width) * (low + (1 - low) * share)))
            windows.append((round((height - side) * down), round((width - side) * across), side))
        return windows


def _cut(picture: Tensor, window: tuple[int, int, int], side: int) -> Tensor:
    top, left, length = window
    part = picture[:3, top : top + length, left : left + length].float()
    if length == side:
        return part
    return F.interpolate(part[None], (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


def mixed_seed(*numbers: int) -> int:
    """A seed from several numbers, far from those of their neighbours."""
    import numpy as np

    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_style(style: str) -> str:
    """The style's words without needless spaces; RegionStyleError when there are none."""
    style = " ".join(style.split())
    if not style:
        raise RegionStyleError("style: got nothing, expected words for the style. Type for example 'watercolor'.")
    return style
