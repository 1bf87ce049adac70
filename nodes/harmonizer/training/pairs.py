"""The data R2R learns from: composites, their masks and the real pictures, in iHarmony4's and RPHarmony's layout.

    ROOT/SUBSET/composite_images/IMAGE_MASK_NUMBER.jpg
    ROOT/SUBSET/masks/IMAGE_MASK.png
    ROOT/SUBSET/real_images/IMAGE.jpg

The composites of a split stand in `SPLIT.jsonl` ({"file_name": "SUBSET/composite_images/NAME", ...} a line), in
`IHD_SPLIT.txt` or `SPLIT.txt` (a path a line), or in every `SUBSET/SUBSET_SPLIT.txt` (a name a line). IMAGE may hold
one underscore itself. Pictures may be PNG where others are JPEG.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import wrong_input
from ...engine.io.pictures import read_image, read_picture

ENDINGS = (".jpg", ".png", ".jpeg", ".webp")
FOLDERS = ("composite_images", "masks", "real_images")


@dataclass(frozen=True)
class Pair:
    """The three files of one composite."""

    composite: Path
    mask: Path
    real: Path

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """Composite and real picture `[1,3,H,W]` in 0..1 and mask `[1,1,H,W]`, 0 or 1: at the composite's size.

        RegionStyleError for a file that is no picture.
        """
        composite, real = read_image(self.composite), read_image(self.real)
        mask = (read_picture(self.mask, "mask").mask >= 0.5).float()[None, None]
        size = composite.shape[-2:]
        if real.shape[-2:] != size:
            real = F.interpolate(real, size, mode="bilinear", antialias=True)
        if mask.shape[-2:] != size:
            mask = F.interpolate(mask, size, mode="nearest")
        return composite, mask, real


class Pairs:
    """A split of a data set."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.all = list(pairs)

    @classmethod
    def of(cls, root: Path, split: str = "train") -> Pairs:
        """RegionStyleError where there is no list, an empty one, or a composite without its mask or real picture."""
        layout = f"{split}.jsonl, IHD_{split}.txt, {split}.txt or SUBSET/SUBSET_{split}.txt"
        if not root.is_dir():
            raise wrong_input("data", str(root), f"a folder with {layout}", "There is no such folder; check the path.")
        names = listed(root, split)
        if not names:
            raise wrong_input("data", f"{root} without a list", layout, "'regionstyle make harmony-data' writes one.")
        return cls([partners(root / name) for name in names])

    def __len__(self) -> int:
        return len(self.all)

    @property
    def mark(self) -> str:
        """Changes with the pictures' names: a training goes on with the same ones only."""
        names = "\n".join(pair.composite.name for pair in self.all)
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def has_split(root: Path, split: str) -> bool:
    """Whether a data set lists pictures for a split."""
    return root.is_dir() and bool(listed(root, split))


def listed(root: Path, split: str) -> list[str]:
    """The composites' paths below the root; none where no list is there."""
    if (root / f"{split}.jsonl").is_file():
        return _of_jsonl(root / f"{split}.jsonl")
    for name in (f"IHD_{split}.txt", f"{split}.txt"):
        if (root / name).is_file():
            return [line for line in _lines(root / name) if line]
    found = []
    for listing in sorted(root.glob(f"*/*_{split}.txt")):
        part = listing.parent.name
        if listing.name == f"{part}_{split}.txt":
            found += [n if "/" in n else f"{part}/{FOLDERS[0]}/{n}" for n in _lines(listing) if n]
    return found


def _of_jsonl(path: Path) -> list[str]:
    try:
        return [str(json.loads(line)["file_name"]) for line in _lines(path) if line]
    except (ValueError, KeyError, TypeError) as error:
        got = f"{path} ({type(error).__name__})"
        raise wrong_input("data", got, '{"file_name": ...} on every line', "Repair the list.") from error


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]


def partners(composite: Path) -> Pair:
    """The files of a composite by its name."""
    parts = composite.stem.split("_")
    if len(parts) > 3:
        parts = ["_".join(parts[:2]), *parts[2:]]
    if len(parts) != 3:
        raise wrong_input("data", composite.name, "IMAGE_MASK_NUMBER", "Name the composites as the data set does.")
    base = composite.parent.parent
    mask = _picture(base / FOLDERS[1] / f"{parts[0]}_{parts[1]}", ".png")
    real = _picture(base / FOLDERS[2] / parts[0], composite.suffix)
    return Pair(_picture(composite.with_suffix(""), composite.suffix), mask, real)


def _picture(stem: Path, usual: str) -> Path:
    for ending in (usual, *ENDINGS):
        path = stem.with_name(stem.name + ending)
        if path.is_file():
            return path
    got = f"no {stem.name}{usual} in {stem.parent}"
    raise wrong_input("data", got, "a mask and a real picture for every composite", "Complete the data set.")


def shuffled(count: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch."""
    random = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**64)
    return torch.randperm(count, generator=random).tolist()
