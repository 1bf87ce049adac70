"""Data sets of harmonisation: iHarmony4's four parts, RPHarmony and RealHM (R2R)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from ...engine.errors import wrong_input
from ..harmonization import subset_of
from .samples import Sample, need, need_samples, read_gray

PARTS = ("HAdobe5k", "HCOCO", "Hday2night", "HFlickr")


def load_iharmony4(root: Path, split: str = "test") -> list[Sample]:
    """The composites of a list: `SPLIT.jsonl` ({"file_name": ...} a line), else `IHD_SPLIT.txt` or `SPLIT.txt`, else
    every `PART/PART_SPLIT.txt`; pictures in `PART/composite_images`, `PART/masks`, `PART/real_images`.

    RPHarmony's names, and those of `make harmony-data`, begin with r; their part is the folder they lie in."""
    samples = []
    for line in _listed(root, split):
        composite = need(root / line, "the composites of the list")
        real, mask = _partners(composite)
        samples.append(
            Sample(composite.stem, composite, partial(read_gray, mask), truth=real, subset=_subset(composite))
        )
    return need_samples(samples, root, f"{split}.jsonl, IHD_{split}.txt, {split}.txt or PART/PART_{split}.txt")


def _listed(root: Path, split: str) -> list[str]:
    """The composites' paths below the root."""
    if (root / f"{split}.jsonl").is_file():
        lines = (root / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line)["file_name"] for line in lines if line.strip()]
    for listing in (root / f"IHD_{split}.txt", root / f"{split}.txt"):
        if listing.is_file():
            return listing.read_text(encoding="utf-8").split()
    composites = []
    for part in PARTS:
        listing = root / part / f"{part}_{split}.txt"
        if listing.is_file():
            names = listing.read_text(encoding="utf-8").split()
            composites += [name if "/" in name else f"{part}/composite_images/{name}" for name in names]
    return composites


def _subset(composite: Path) -> str:
    """iHarmony4's parts by the name's first letter, RPHarmony's by their folder."""
    return composite.parent.parent.name if composite.name.startswith("r") else subset_of(composite.name)


def _partners(composite: Path) -> tuple[Path, Path]:
    """The real picture and the mask of `IMAGE_MASK_NUMBER.jpg`; IMAGE may hold one underscore itself."""
    parts = composite.stem.split("_")
    if len(parts) > 3:
        parts = ["_".join(parts[:2]), *parts[2:]]
    if len(parts) != 3:
        raise wrong_input("composite", composite.name, "IMAGE_MASK_NUMBER.jpg", "Use the data set's own names.")
    base = composite.parent.parent
    real = need(base / "real_images" / f"{parts[0]}.jpg", "the real picture of every composite")
    return real, need(base / "masks" / f"{parts[0]}_{parts[1]}.png", "the mask of every composite")


def load_realhm(root: Path) -> list[Sample]:
    """`NAME_composite.jpg` with `NAME_mask.jpg` and `NAME_gt.jpg` in any folder below (`vendor_testing_1`, ...)."""
    need(root, "RealHM's folder")
    samples = []
    for composite in sorted(root.rglob("*_composite.jpg")):
        stem = composite.name.removesuffix("_composite.jpg")
        truth = need(composite.with_name(f"{stem}_gt.jpg"), "the truth of every composite")
        mask = need(composite.with_name(f"{stem}_mask.jpg"), "the mask of every composite")
        name = "_".join([*composite.parent.relative_to(root).parts, stem])
        samples.append(Sample(name, composite, partial(read_gray, mask), truth=truth))
    return need_samples(samples, root, "NAME_composite.jpg, NAME_mask.jpg, NAME_gt.jpg")
