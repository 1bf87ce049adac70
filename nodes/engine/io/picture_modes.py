"""What a picture's mode means: its values, its transparency, and what reading it changes.

Pillow opens a file in one of about twenty modes. Here each becomes grey or RGB values as they are stored (8 or 16 bits,
or floating point from 0 to 1) with the transparency beside them. What cannot be kept is said in a notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import wrong_input

if TYPE_CHECKING:
    from PIL.Image import Image

FULL = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # white, by type of number
_ROUNDING = 1e-6  # by so much a floating point value may leave 0..1


def values_of(picture: Image, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Values `[H,W]` or `[H,W,3]`, and transparency `[H,W]` (None: there is none), of uint8, uint16 or float32.

    RegionStyleError for numbers that are not between black and white, and for modes that have no colours.
    """
    if picture.mode.startswith("I"):
        return _sixteen_bits(picture, name)
    if picture.mode == "F":
        return _floats(picture, name), None
    if picture.has_transparency_data:
        both = "LA" if picture.mode in ("1", "L", "LA", "La") else "RGBA"
        values = np.array(picture.convert(both))
        return (values[..., 0] if both == "LA" else values[..., :3]), values[..., -1]
    if picture.mode in ("1", "L"):
        return np.array(picture.convert("L")), None
    return np.array(_rgb(picture, name)), None


def mode_notices(picture: Image) -> list[str]:
    """What reading a picture leaves out, in words; call it before its pixels are loaded."""
    said = []
    if picture.mode in ("RGB", "RGBA", "LA") and any(";16" in text for text in _raw_modes(picture)):
        said.append("its 16 bits per colour are read as 8")
    if picture.mode in ("CMYK", "LAB", "YCbCr", "HSV") and picture.format != "JPEG":
        said.append(f"its {picture.mode} colours are read as RGB")
    elif picture.mode == "CMYK":
        said.append("its CMYK colours are read as RGB")
    frames = getattr(picture, "n_frames", 1) if picture.format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF") else 1
    if frames > 1:
        said.append(f"only the first of its {frames} frames is read")
    return said


def _raw_modes(picture: Image) -> list[str]:
    """How the file stores its pixels, as Pillow's decoders are told."""
    arguments: list[Any] = [tile[3] for tile in getattr(picture, "tile", [])]
    return [part for one in arguments for part in (one if isinstance(one, tuple) else (one,)) if isinstance(part, str)]


def _sixteen_bits(picture: Image, name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey of 16 bits, which some files hold as 32; a transparent level, if the file names one."""
    levels = np.array(picture)
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > FULL["uint16"]:
        got = f"a picture of mode {picture.mode!r} with values from {low} to {high}"
        raise wrong_input(name, got, "0 (black) to 65535 (white)", "Scale them first.")
    levels = levels.astype(np.uint16)
    clear = picture.info.get("transparency")
    if not isinstance(clear, int):
        return levels, None
    return levels, np.where(levels == clear, 0, FULL["uint16"]).astype(np.uint16)


def _floats(picture: Image, name: str) -> np.ndarray:
    levels = np.array(picture, dtype=np.float32)
    if not ((levels >= -_ROUNDING) & (levels <= 1 + _ROUNDING)).all():  # NaN neither
        low, high = float(levels.min()), float(levels.max())
        got = f"a picture of mode 'F' with values from {low:g} to {high:g}"
        raise wrong_input(name, got, "0 (black) to 1 (white)", "Scale them first.")
    return levels.clip(0, 1)


def _rgb(picture: Image, name: str) -> Image:
    """Other colour spaces by their own profile where there is one, by Pillow's plain rules elsewhere."""
    from PIL import ImageCms

    if picture.mode in ("CMYK", "LAB"):
        profile = _own_profile(picture)
        if profile is not None:
            try:
                made = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
                return made if made is not None else picture.convert("RGB")
            except (ImageCms.PyCMSError, OSError):  # a damaged profile, or one of another kind of colours
                pass
    try:
        return picture.convert("RGB")
    except ValueError:
        got = f"a picture of mode {picture.mode!r}"
        raise wrong_input(name, got, "grey, RGB or CMYK colours", "Convert it to RGB first.") from None


def _own_profile(picture: Image) -> Any:
    from io import BytesIO

    from PIL import ImageCms

    if picture.mode == "LAB":
        return ImageCms.createProfile("LAB")
    data = picture.info.get("icc_profile")
    try:
        return ImageCms.ImageCmsProfile(BytesIO(data)) if data else None
    except OSError:
        return None
