"""Pictures a generator learns from: any folder of images, or a batch; random crops.

A .txt file beside a picture says what it shows; pictures without one share the training's caption.

A crop is a random square of a picture, from the network's own size up to the whole, resized to that size and flipped
half of the time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.pictures import caption_of, read_image

log = logging.getLogger("regionstyle")
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class Pictures(Protocol):
    """Numbered pictures."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, index: int) -> Tensor | None:
        """`[3,H,W]` float32 in 0..1; None for one that cannot be read."""

    def caption(self, index: int) -> str:
        """What it shows; "" where nothing is known."""


class PictureBatch:
    """Images `[B,3,H,W]` in 0..1 as they are."""

    def __init__(self, images: Tensor) -> None:
        """RegionStyleError for an empty batch or other shapes."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.numel():
            raise wrong_input("images", list(images.shape), "[B,3,H,W]", "Give pictures with three colours.")
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> Tensor:
        # a copy: what a node of ComfyUI was given comes from inference mode, which autograd refuses
        return self._images[index].float().cpu().clone()

    def caption(self, index: int) -> str:
        """Nothing is known."""
        return ""


def picture_paths(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders by their endings, sorted.

    "._picture.jpg", which macOS writes beside a picture on foreign disks, is none.
    """
    found = (path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    return sorted(path for path in found if not path.name.startswith("._"))


class PictureFiles:
    """Image files. One that cannot be read is named in the log and left out, or with `strict` an error."""

    def __init__(self, paths: Sequence[Path], *, strict: bool = False) -> None:
        self.paths, self.strict = list(paths), strict
        self.unreadable: list[Path] = []

    @classmethod
    def below(cls, folder: Path, *, strict: bool = False) -> PictureFiles:
        """All pictures of a folder and its subfolders, sorted. RegionStyleError when there are none."""
        accepts = f"a folder with pictures ({', '.join(ENDINGS)})"
        if not folder.is_dir():
            raise wrong_input("images", repr(str(folder)), accepts, "There is no such folder; check the path.")
        paths = picture_paths(folder)
        if not paths:
            raise wrong_input("images", f"{str(folder)!r}, which holds none", accepts, "Choose another folder.")
        return cls(paths, strict=strict)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Tensor | None:
        """The upright picture in RGB; None, said once per file, when it cannot be read."""
        from PIL import Image

        try:
            return read_image(self.paths[index])[0]
        except (RegionStyleError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            self._skip(self.paths[index], error)
            return None

    def caption(self, index: int) -> str:
        """What the .txt file beside it says."""
        return caption_of(self.paths[index])

    def _skip(self, path: Path, error: Exception) -> None:
        if self.strict:
            accepts = "only pictures that can be read"
            remedy = f"({error}) Repair or remove it, or do without 'strict'."
            raise wrong_input("images", repr(str(path)), accepts, remedy) from error
        if path not in self.unreadable:
            self.unreadable.append(path)
            log.warning("left out, cannot be read: %s (%s)", path, error)


def draw_crop(pictures: Pictures, size: int, random: torch.Generator) -> Tensor:
    """A random crop `[1,3,size,size]`. RegionStyleError when no picture can be read."""
    return draw_numbered_crop(pictures, size, random)[1]


def draw_numbered_crop(pictures: Pictures, size: int, random: torch.Generator) -> tuple[int, Tensor]:
    """The same with the number of the picture it is from."""
    for _ in range(20 * len(pictures)):
        index = int(torch.randint(len(pictures), (), generator=random))
        picture = pictures.read(index)
        if picture is not None:
            return index, _random_square(picture, size, random)
    raise _all_unreadable(pictures)


def validation_crops(pictures: Pictures, size: int, count: int = 4) -> Tensor:
    """The middle squares `[N,3,size,size]` of the first readable pictures, at most `count`."""
    crops: list[Tensor] = []
    for index in range(len(pictures)):
        picture = pictures.read(index)
        if picture is not None:
            height, width = picture.shape[-2:]
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            crops.append(resized(picture[:, top : top + side, left : left + side], size))
        if len(crops) == count:
            break
    if not crops:
        raise _all_unreadable(pictures)
    return torch.stack(crops)


def resized(square: Tensor, size: int) -> Tensor:
    """A square `[3,n,n]` at another size, kept in 0..1."""
    if square.shape[-1] == size:
        return square
    return F.interpolate(square[None], (size, size), mode="bicubic", antialias=True)[0].clamp(0, 1)


def _random_square(picture: Tensor, size: int, random: torch.Generator) -> Tensor:
    """Its side is drawn evenly on a logarithmic scale: fine detail and whole views are equally frequent."""
    height, width = picture.shape[-2:]
    largest = min(height, width)
    smallest = min(size, largest)
    share, down, across, flip = torch.rand(4, generator=random, dtype=torch.float64).tolist()
    side = min(largest, round(smallest * math.exp(share * math.log(largest / smallest))))
    top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
    crop = resized(picture[:, top : top + side, left : left + side], size)
    return (crop.flip(-1) if flip < 0.5 else crop)[None]


def _all_unreadable(pictures: Pictures) -> RegionStyleError:
    return wrong_input("images", f"{len(pictures)} files", "pictures that can be read", "None of them is one.")
