"""Where a data set's pictures and masks come from: plain folders, or annotations in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.pictures import read_picture

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Source:
    """One picture and its masks: files, or segmentations of COCO's format. Plain values: it goes to other machines."""

    image: str
    masks: tuple[Any, ...]

    def read(self, largest: int) -> tuple[Tensor, list[Tensor]]:
        """The picture `[1,3,H,W]` in 0..1 and its masks `[1,1,H,W]`, its longer side at most `largest`.

        RegionStyleError for a file that cannot be read, or a mask of another size.
        """
        picture = read_picture(Path(self.image))
        masks = [self._mask(mask, picture.size)[None, None] for mask in self.masks]
        scale = largest / max(picture.size)
        if scale >= 1:
            return picture.over_white, masks
        size = [max(1, round(n * scale)) for n in picture.size]
        small = torch.nn.functional.interpolate(picture.over_white, size, mode="bilinear", antialias=True).clamp(0, 1)
        return small, [torch.nn.functional.interpolate(mask, size, mode="nearest-exact") for mask in masks]

    def _mask(self, mask: Any, size: tuple[int, int]) -> Tensor:
        if isinstance(mask, str):
            return (read_picture(Path(mask), "mask", size).mask > 0.5).float()
        from ...engine.io.rle import mask_of_segmentation

        try:
            return torch.from_numpy(mask_of_segmentation(mask, *size).copy())
        except (KeyError, TypeError, ValueError) as error:
            raise RegionStyleError(f"annotation of {Path(self.image).name}: {error}") from error


def folder_sources(images: Path, masks: Path) -> list[Source]:
    """The pictures of a folder that have masks: `NAME.png` or `NAME_anything.png` (any picture ending) for `NAME.jpg`.

    A mask has one owner: the longest NAME that fits. RegionStyleError for folders that are missing, and when no
    picture has a mask.
    """
    pictures = _pictures(images, "--images")
    of: dict[str, list[str]] = {image.stem: [] for image in pictures}
    for file in _pictures(masks, "--masks"):
        owner = _owner(file.stem, of)
        if owner is not None:
            of[owner].append(str(file))
    found = [Source(str(image), tuple(sorted(of[image.stem]))) for image in pictures if of[image.stem]]
    if not found:
        accepts = "NAME.png or NAME_anything.png for a picture NAME"
        raise wrong_input("--masks", f"{masks}, where no mask has a picture's name", accepts, "Rename them.")
    return found


def _owner(mask: str, images: Container[str]) -> str | None:
    """The picture whose mask it is: of the names it begins with the longest, so that cat_2 is cat_2's, not cat's."""
    while mask not in images:
        mask, cut, _ = mask.rpartition("_")
        if not cut:
            return None
    return mask


def _pictures(folder: Path, name: str) -> list[Path]:
    if not folder.is_dir():
        raise wrong_input(name, f"no folder {folder}", "a folder with pictures", "Check the path.")
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)


def coco_sources(images: Path, annotations: Path) -> list[Source]:
    """The pictures of a COCO annotation file that have things; crowds are left out.

    RegionStyleError for a file that is missing, no such file, or without things.
    """
    if not images.is_dir():
        raise wrong_input("--images", f"no folder {images}", "a folder with pictures", "Check the path.")
    try:
        table = json.loads(annotations.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in table["images"]}
        things: dict[Any, list[Any]] = {}
        for thing in table["annotations"]:
            if not thing.get("iscrowd") and thing.get("segmentation"):
                things.setdefault(thing["image_id"], []).append(thing["segmentation"])
        found = [Source(str(_inside(images, names[key])), tuple(own)) for key, own in sorted(things.items())]
    except FileNotFoundError:
        raise wrong_input("--coco", f"no file {annotations}", "annotations", "Check the path.") from None
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        if isinstance(error, RegionStyleError):
            raise
        got = f"{annotations.name} ({type(error).__name__}: {error})"
        raise wrong_input("--coco", got, "annotations of things in COCO's format", "Choose another file.") from error
    if not found:
        raise wrong_input("--coco", f"{annotations.name} without things", "at least one", "Choose another file.")
    return found


def _inside(folder: Path, name: str) -> Path:
    """A file name of a stranger's file, which must not lead out of the folder."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise wrong_input("--coco", f"the file name {name!r}", "a name inside the folder", "Correct the annotations.")
    return path


def described(sources: Sequence[Source]) -> str:
    """How many pictures and masks, in words."""
    return f"{len(sources)} pictures with {sum(len(source.masks) for source in sources)} masks"
