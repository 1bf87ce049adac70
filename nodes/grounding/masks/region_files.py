"""Regions on disk: one JSON file with the words, and a PNG beside it for every mask.

The PNGs are 16-bit grey, white = the region, so that soft masks keep their values to 1/65535; other grey or colour
PNGs, as a paint program writes them, are read too. Nothing outside the JSON file's folder is read or written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import Host, counted
from ...engine.io.pictures import LARGEST, read_picture
from ...engine.io.safe_write import replacing, write_text
from ...engine.region.region import Region
from ...engine.region.regions import MOST_PIXELS, Regions, region_of

FORMAT, VERSION = "regionstyle-regions", 1
FULL = 65535


def save_regions(regions: Regions, path: Path, host: Host | None = None) -> list[Path]:
    """Write regions as NAME.json (`path`) and NAMEmask000.png, NAMEmask001.png, ... beside it; the files written.

    host: counts the masks, and may cancel at each.
    """
    names = [f"{path.stem}mask{number:03}.png" for number in range(len(regions))]
    entries = [
        {
            "phrase": region.phrase,
            "style": region.style,
            "score": float(region.score),
            "image": region.image,
            "mask": name,
        }
        for region, name in zip(regions, names, strict=True)
    ]
    size = {"height": regions.height, "width": regions.width, "batch": regions.batch}
    path.parent.mkdir(parents=True, exist_ok=True)
    for region, name in counted(list(zip(regions, names, strict=True)), host, "masks"):
        _write_mask(region.mask, path.with_name(name))
    text = json.dumps({"format": FORMAT, "version": VERSION, **size, "regions": entries}, indent=1, ensure_ascii=False)
    write_text(path, text + "\n", "regions")
    return [path, *(path.with_name(name) for name in names)]


def _write_mask(mask: Tensor, path: Path) -> None:
    from PIL import Image

    levels = (mask.detach().double().cpu().clamp(0, 1) * FULL).round().numpy().astype(np.uint16)
    with replacing(path, "regions") as part:
        Image.fromarray(levels).save(part, "PNG")


def load_regions(path: Path, host: Host | None = None) -> Regions:
    """The regions of a file written by `save_regions`.

    RegionStyleError for a file that is missing, damaged or of another kind, and for a mask that is missing, of another
    size, or not in the same folder. host: counts the masks, and may cancel at each.
    """
    data = _read_json(path)
    height, width, batch = (_whole(data, name, path) for name in ("height", "width", "batch"))
    entries = data.get("regions")
    if not isinstance(entries, list):
        raise _damaged(path, f"regions {type(entries).__name__}", "a list")
    if height * width > LARGEST or height * width * max(batch, len(entries)) > MOST_PIXELS:
        got = f"{len(entries)} masks of {batch} pictures of {width} x {height}"
        raise _damaged(path, got, f"at most {MOST_PIXELS // 10**6} million pixels, {LARGEST // 10**6} in each")
    items = [_read_region(entry, path, (height, width)) for entry in counted(entries, host, "masks")]
    return Regions(tuple(items), height, width, batch)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise wrong_input("file", repr(path.name), "a regions file (.json) that exists", "Check the name and folder.")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with that mark
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"text that is no JSON ({error})", "a file written by Save Regions") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise _damaged(path, "JSON of another kind", f"format {FORMAT!r}")
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        raise _damaged(path, f"version {data.get('version')!r}", f"version {VERSION}")
    return data


def _damaged(path: Path, got: str, accepts: str) -> RegionStyleError:
    return wrong_input(f"file {path.name!r}", got, accepts, "Choose a file written by Save Regions.")


def _whole(data: dict[str, Any], name: str, path: Path) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _damaged(path, f"{name} {value!r}", "a whole number")
    return value


def _read_region(entry: Any, path: Path, size: tuple[int, int]) -> Region:
    kinds: dict[str, Any] = {"phrase": str, "style": str, "score": (int, float), "image": int, "mask": str}
    fits = isinstance(entry, dict) and all(
        isinstance(entry.get(name), kind) and not isinstance(entry[name], bool) for name, kind in kinds.items()
    )
    if not fits:
        raise _damaged(path, f"a region {entry!r}", f"one with {', '.join(kinds)}")
    mask = _read_mask(path, entry["mask"], size)
    return region_of(entry["phrase"], mask, style=entry["style"], score=float(entry["score"]), image=entry["image"])


def _read_mask(path: Path, name: str, size: tuple[int, int]) -> Tensor:
    plain = bool(name) and "\0" not in name and Path(name).name == name
    place = path.with_name(name) if plain else None
    if place is None or place.resolve().parent != path.resolve().parent:
        raise _damaged(path, f"mask {name!r}", "a file name in the same folder")
    try:
        return read_picture(place, "mask", size).mask
    except RegionStyleError as error:
        raise _damaged(path, f"mask {name!r} that cannot be read ({error})", "a PNG beside it") from error
