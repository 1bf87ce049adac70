"""Writing an edited picture so that its file, not only its colours, is as before outside the mask.

Values outside the mask are those of the source file, bit for bit, with its transparency, bit depth, colour profile and
EXIF. What the format cannot hold is left out and said.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..engine.errors import RegionStyleError
from ..engine.io.picture_modes import FULL
from ..engine.io.pictures import Picture
from ..engine.io.safe_write import replacing
from .png16 import png16


@dataclass(frozen=True)
class _Format:
    """What a picture format keeps. exact: whether values come back as they were; options: for Pillow's `save`."""

    alpha: bool = False
    profile: bool = False
    exif: bool = False
    exact: bool = True
    options: tuple[tuple[str, Any], ...] = ()


_FORMATS = {
    "PNG": _Format(alpha=True, profile=True, exif=True),
    "TIFF": _Format(alpha=True, profile=True, exif=True),
    "WEBP": _Format(alpha=True, profile=True, exif=True, options=(("lossless", True), ("exact", True))),
    "JPEG": _Format(profile=True, exif=True, exact=False, options=(("quality", 95), ("subsampling", 0))),
    "BMP": _Format(),
}
_OTHER = _Format(exact=False)


def picture_format(path: Path) -> str:
    """Pillow's name of the format of a file name's ending. RegionStyleError for an ending that none has."""
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise RegionStyleError(f"output: got {path.name!r}, expected a picture ending such as .png. Change the name.")
    return kind


def save_edited(source: Picture, image: Tensor, mask: Tensor, path: Path) -> list[str]:
    """Write an edited picture `[1,3,H,W]`: the source's values where the mask `[H,W]` is 0. Returns what was lost.

    The ending chooses the format. RegionStyleError for an unknown one and a place that cannot be written.
    """
    kind = picture_format(path)
    keeps = _FORMATS.get(kind, _OTHER)
    values, alpha, lost = _fitting(source, edited_values(source, image, mask), kind, keeps)
    grey_profile = source.grey and values.ndim == 3
    profile = source.profile if keeps.profile and not grey_profile else None
    exif = source.exif if keeps.exif else None
    if source.profile and not profile:
        lost.append("the colour profile is left out" + (", since it is one of grey" if grey_profile else ""))
    if source.exif and not exif:
        lost.append(f"{kind} has no place for the EXIF data")
    if not keeps.exact:
        lost.append(f"{kind} changes values everywhere, if little; PNG keeps them outside the region")
    _write(_channels(values, alpha), path, kind, keeps, profile, exif)
    return lost


def edited_values(source: Picture, image: Tensor, mask: Tensor) -> np.ndarray:
    """What the file shall hold, `[H,W]` or `[H,W,3]` of the source's type: grey stays grey where no colour came in."""
    given = np.repeat(source.values[..., None], 3, -1) if source.grey else source.values
    painted = image[0].permute(1, 2, 0).detach().float().cpu().clamp(0, 1).numpy() * FULL[given.dtype.name]
    painted = painted if given.dtype == np.float32 else painted.round()
    inside = (mask.reshape(mask.shape[-2:]) > 0).cpu().numpy()[..., None]
    values = np.where(inside, painted.astype(given.dtype), given)
    return values[..., 0] if source.grey and (values == values[..., :1]).all() else values


def _fitting(
    source: Picture, values: np.ndarray, kind: str, keeps: _Format
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Values and transparency as the format can hold them, and what that loses."""
    alpha = source.alpha
    lost: list[str] = []
    if values.dtype != np.uint8:
        values, lost = _depth(values, kind, alpha is not None)
        alpha = None if alpha is None else _as_type(alpha, values.dtype)
    if alpha is not None and not keeps.alpha:
        lost.append(f"{kind} has no transparency; what was transparent is laid over white")
        values, alpha = _over_white(values, alpha), None
    return values, alpha, lost


def _depth(values: np.ndarray, kind: str, transparent: bool) -> tuple[np.ndarray, list[str]]:
    """The deepest numbers the format can hold of values deeper than 8 bits."""
    if kind == "TIFF" and values.ndim == 2 and not transparent:
        return values, []
    told = "floating point values" if values.dtype == np.float32 else "16 bits per colour"
    if kind == "PNG":
        return _as_type(values, np.uint16), [f"{told} are rounded to 16 bits"] if values.dtype == np.float32 else []
    return _as_type(values, np.uint8), [f"{told} are rounded to the 8 that a colour {kind} can hold here; PNG holds 16"]


def _as_type(values: np.ndarray, kind: Any) -> np.ndarray:
    scale = FULL[np.dtype(kind).name] / FULL[values.dtype.name]
    return values if values.dtype == kind else (values.astype(np.float64) * scale).round().astype(kind)


def _over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    full = FULL[values.dtype.name]
    share = alpha.astype(np.float64) / full
    share = share if values.ndim == 2 else share[..., None]
    return (values * share + full * (1 - share)).round().astype(values.dtype)


def _channels(values: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """Values and transparency in one array `[H,W]` or `[H,W,C]`."""
    return values if alpha is None else np.dstack([values, alpha])


def _write(
    values: np.ndarray, path: Path, kind: str, keeps: _Format, profile: bytes | None, exif: bytes | None
) -> None:
    from PIL import Image

    more = {"icc_profile": profile, "exif": exif}
    with replacing(path) as part:
        if kind == "PNG" and values.dtype == np.uint16:
            part.write_bytes(png16(values if values.ndim == 3 else values[..., None], profile, exif))
            return
        given = {name: value for name, value in more.items() if value}
        Image.fromarray(values).save(part, kind, **dict(keeps.options), **given)
