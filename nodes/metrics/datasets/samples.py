"""One task of a data set: a picture, what to do with it, and what is known about the right answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engine.errors import wrong_input
from ...engine.io.pictures import read_picture

REGIONAL, STYLE, HARMONIZATION = "regional", "style", "harmonization"
STYLES = ("cyberpunk", "expressionism", "line-art", "pixel-art")  # RegionRoute's experts
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Sample:
    """name: unique in its data set, the stem of its result file; image: the picture to work on; mask: reads `[H,W]`
    in 0..1 at the picture's size, None where the data set has none; phrase and style: of a regional task; prompt: the
    whole instruction; truth: the picture it should become; subset: a part that is reported by itself."""

    name: str
    image: Path
    mask: Callable[[], np.ndarray] | None = None
    phrase: str = ""
    style: str = ""
    prompt: str = ""
    truth: Path | None = None
    subset: str = "all"


def need(path: Path, what: str) -> Path:
    """A file or folder of a data set that must be there."""
    if not path.exists():
        raise wrong_input("--data", f"no {path}", what, "Give the folder the data set was unpacked into.")
    return path


def need_samples(samples: Sequence[Sample], root: Path, layout: str) -> list[Sample]:
    """The samples, or the error that there are none."""
    if not samples:
        raise wrong_input("--data", f"no picture of it in {root}", layout, "Check the folder.")
    return list(samples)


def read_gray(path: Path) -> np.ndarray:
    """A mask file of any depth as `[H,W]` float32 in 0..1."""
    return read_picture(path, "mask").mask.numpy()


def pictures_in(folder: Path) -> list[Path]:
    """The picture files below a folder, sorted by path."""
    return sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file() and not p.name.startswith("._")
    )


def instruction(phrase: str, style: str) -> str:
    """RegionRoute's form of a regional instruction."""
    return f"make the {phrase} in {style} style, keep other area unchanged"
