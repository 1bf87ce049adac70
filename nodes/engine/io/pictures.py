"""Reading pictures from files, for every slice that takes a folder or a path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import RegionStyleError

if TYPE_CHECKING:
    from PIL.Image import Image


def open_picture(path: Path, mode: str = "RGB") -> Image:
    """An upright picture; RegionStyleError when the file is missing or no picture."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not path.is_file():
        raise RegionStyleError(
            f"image: got {str(path)!r}, expected a picture file. There is no such file; check the path."
        )
    try:
        return ImageOps.exif_transpose(Image.open(path)).convert(mode)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise RegionStyleError(
            f"image: got {str(path)!r}, expected a picture (PNG, JPEG, WebP). It cannot be read "
            f"({type(error).__name__}); convert it or choose another."
        ) from error


def caption_of(path: Path) -> str:
    """What the .txt file beside a picture says it shows, on one line; "" without one. RegionStyleError if not UTF-8."""
    text_file = path.with_suffix(".txt")
    if not text_file.is_file():
        return ""
    try:
        return " ".join(text_file.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise RegionStyleError(
            f"captions: got {text_file} ({error.reason}), expected text in UTF-8. Save it again as UTF-8."
        ) from None


def read_image(path: Path) -> Tensor:
    """A picture file as `[1,3,H,W]` float32 in 0..1."""
    return torch.from_numpy(np.asarray(open_picture(path)).copy()).permute(2, 0, 1)[None].float() / 255
