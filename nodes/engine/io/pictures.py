"""Reading pictures from files, for every slice that takes a folder or a path.

A picture's size is known before its pixels are decoded, and checked then: a file of a few kilobytes can unfold to
gigabytes. Colours are taken as the numbers that the file holds; its colour profile goes along with them, so that what
is not painted looks as before in whatever profile it is.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RegionStyleError, wrong_input
from .picture_modes import FULL, mode_notices, values_of

if TYPE_CHECKING:
    from PIL.Image import Image

LARGEST = 2**27  # pixels (134 million), about 400 MB of 8-bit colours and 1.6 GB of the floats we work with


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture as its file holds it.

    values: grey `[H,W]` or RGB `[H,W,3]`, uint8, uint16 or float32 in 0..1; alpha `[H,W]` of the same type, or None;
    profile, exif: as stored, or None (the orientation is applied and no longer told); notices: what reading left out.
    """

    values: np.ndarray
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    notices: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.values.shape[0]), int(self.values.shape[1])

    @property
    def grey(self) -> bool:
        """Whether it has one channel."""
        return self.values.ndim == 2

    @property
    def image(self) -> Tensor:
        """Its colours `[1,3,H,W]` float32 in 0..1. What cannot be seen at all is white: its colours are any."""
        colors = np.repeat(self.values[..., None], 3, -1) if self.grey else self.values
        image = torch.from_numpy(_levels(colors)).permute(2, 0, 1)[None].contiguous()
        return image if self.alpha is None else image.masked_fill(torch.from_numpy(self.alpha == 0), 1.0)

    @property
    def opacity(self) -> Tensor | None:
        """Its alpha `[H,W]` float32 in 0..1; None for a picture that is opaque everywhere."""
        alpha = None if self.alpha is None else torch.from_numpy(_levels(self.alpha))
        return None if alpha is None or bool((alpha == 1).all()) else alpha

    def with_opacity(self, opacity: Tensor) -> Picture:
        """The same picture with another alpha `[H,W]` in 0..1."""
        full = FULL[self.values.dtype.name]
        alpha = opacity.clamp(0, 1).double().numpy() * full
        alpha = alpha if self.values.dtype == np.float32 else alpha.round()
        return replace(self, alpha=alpha.astype(self.values.dtype))

    @property
    def over_white(self) -> Tensor:
        """Its colours laid over white, `[1,3,H,W]`: what a viewer shows."""
        if self.alpha is None:
            return self.image
        alpha = torch.from_numpy(_levels(self.alpha))
        return self.image * alpha + (1 - alpha)

    @property
    def mask(self) -> Tensor:
        """It as a mask `[H,W]` in 0..1: white is the region, and what is transparent is not.

        Where everything that can be seen has one colour, the shape is that of the opaque part, whatever the colour.
        """
        grey = torch.from_numpy(_levels(self.values))
        grey = grey if self.grey else grey @ torch.tensor([0.299, 0.587, 0.114])
        if self.alpha is None:
            return grey
        alpha = torch.from_numpy(_levels(self.alpha))
        return alpha.clone() if self.shaped_by_alpha else (grey * alpha)

    @property
    def shaped_by_alpha(self) -> bool:
        """Whether its transparency, and nothing else, draws a shape."""
        if self.alpha is None or len(np.unique(self.alpha)) < 2:
            return False
        seen = self.values[self.alpha > 0]
        return bool((seen == seen[0]).all())


def _levels(values: np.ndarray) -> np.ndarray:
    """Stored values as float32 in 0..1."""
    return values.astype(np.float32) / np.float32(FULL[values.dtype.name])


def decoded(picture: Image, name: str = "image") -> Picture:
    """An opened picture of any mode. RegionStyleError for values that are not between black and white."""
    from PIL import ImageOps

    notices = mode_notices(picture)
    converted = picture.mode in ("CMYK", "LAB")
    upright = ImageOps.exif_transpose(picture)
    values, alpha = values_of(upright, name)
    profile = None if converted else upright.info.get("icc_profile") or None
    return Picture(values, alpha, profile, upright.info.get("exif") or None, tuple(notices))


def read_picture(path: Path, name: str = "image", size: tuple[int, int] | None = None) -> Picture:
    """A picture file; size: the (height, width) it must have.

    RegionStyleError, before anything is decoded, for a file that is missing, no picture, too large or of another size;
    and for one that is damaged.
    """
    with opened(path, name) as picture:
        check_picture_size(picture, f"{name} {path.name!r}", size)
        return decoded(picture, f"{name} {path.name!r}")


@contextmanager
def opened(path: Path, name: str = "image") -> Iterator[Image]:
    """A picture file whose head has been read; what goes wrong with it inside becomes one RegionStyleError."""
    from PIL import Image, UnidentifiedImageError

    if not path.is_file():
        raise RegionStyleError(
            f"{name}: got {str(path)!r}, expected a picture file. There is no such file; check the path."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have a limit of our own
            with Image.open(path) as picture:
                yield picture
    except RegionStyleError:
        raise
    except Image.DecompressionBombError:
        raise _too_large(f"{name} {path.name!r}", "more pixels than Pillow opens") from None
    # what Pillow's readers meet in damaged files
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError) as error:
        raise RegionStyleError(
            f"{name}: got {str(path)!r}, expected a picture (PNG, JPEG, WebP). It cannot be read "
            f"({type(error).__name__}); convert it or choose another."
        ) from error


def check_picture_size(picture: Image, name: str, size: tuple[int, int] | None = None) -> None:
    """RegionStyleError for an opened picture that is too large to decode, or not of the (height, width) wanted."""
    width, height = picture.size
    if size is not None and upright_size(picture) != tuple(size):
        tall, wide = upright_size(picture)
        accepts = f"the picture's {size[1]} x {size[0]}"
        raise wrong_input(name, f"{wide} x {tall} pixels", accepts, "Save it at the picture's size.")
    if width * height > LARGEST:
        raise _too_large(name, f"{width} x {height} pixels")


def _too_large(name: str, got: str) -> RegionStyleError:
    return wrong_input(name, got, f"at most {LARGEST // 10**6} million pixels", "Scale it down, or cut it into parts.")


def upright_size(picture: Image) -> tuple[int, int]:
    """Height and width of an opened picture, turned as its EXIF says, without decoding it."""
    width, height = picture.size
    turned: Any = picture.getexif().get(0x0112, 1) if picture.format != "TIFF" else 1  # Pillow turns TIFF itself
    return (width, height) if turned in (5, 6, 7, 8) else (height, width)


def caption_of(path: Path) -> str:
    """What the .txt file beside a picture says it shows, on one line; "" without one. RegionStyleError if not UTF-8."""
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        return ""
    try:
        return " ".join(beside.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise RegionStyleError(
            f"captions: got {beside} ({error.reason}), expected text in UTF-8. Save it again as UTF-8."
        ) from None


def read_image(path: Path) -> Tensor:
    """A picture file as a viewer shows it, over white, `[1,3,H,W]` float32 in 0..1."""
    return read_picture(path).over_white
