"""Downloading public models: what is there already, what is wanted, whether it fits, and then file by file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...engine.errors import RegionStyleError
from .catalogue import Part, PublicModel
from .sources import RemoteFile, remote_files
from .transfer import PARTS, differs, fetch, received

SPARE = 256 << 20  # bytes that stay free on the disk
OPTIONAL = ".jinja"  # chat templates, which a repository may have inside its tokenizer's configuration
INDEX = ".safetensors.index.json"  # names the shards of a network, each with the tensors in it


@dataclass(frozen=True)
class Wanted:
    """One file of a model that is not there yet."""

    model: PublicModel
    file: RemoteFile


@dataclass(frozen=True)
class Plan:
    """wanted: files to download; there: places of those that are there and are the public ones.

    missing: bytes still to come, as far as sizes are known; unknown: files whose size is not.
    """

    root: Path
    wanted: list[Wanted]
    there: list[Path]
    missing: int
    unknown: int


def plan(models: Sequence[PublicModel], root: Path) -> Plan:
    """Ask the sources, compare with what lies below `root`, and check the disk.

    RegionStyleError when a source cannot be asked, when another file lies where one belongs (it is never written over),
    and when the disk is too small.
    """
    wanted: dict[Path, Wanted] = {}
    there: list[Path] = []
    for model in models:
        for file in remote_files(model):
            place = root / file.place
            if place in wanted or place in there:
                continue
            if place.exists() or place.is_symlink():
                _check_existing(place, file)
                there.append(place)
            else:
                wanted[place] = Wanted(model, file)
    sizes = [(each.file.size, received(root, each.file)) for each in wanted.values()]
    missing = sum(max(size - got, 0) for size, got in sizes if size is not None)
    made = Plan(root, list(wanted.values()), there, missing, sum(size is None for size, _ in sizes))
    _check_disk(made)
    return made


def _check_existing(place: Path, file: RemoteFile) -> None:
    difference = differs(place, file) if place.is_file() else "no file"
    if difference:
        raise RegionStyleError(
            f"{place}: there is something else already ({difference}), which is left as it is. Move it away, or choose "
            "another place with --folder."
        )


def _check_disk(made: Plan) -> None:
    """RegionStyleError where the disk has no room for what is missing."""
    there = next(place for place in (made.root, *made.root.parents) if place.exists())
    free = shutil.disk_usage(there).free
    if made.missing and made.missing + SPARE > free:
        raise RegionStyleError(
            f"{made.root}: {gigabytes(made.missing)} are missing and the disk has {gigabytes(free)} free. Make room, "
            "or choose another disk with --folder."
        )


def run(made: Plan) -> list[Path]:
    """Download what a plan wants; returns the places. RegionStyleError as in `fetch`; what is complete stays."""
    places = [fetch(each.model, each.file, made.root) for each in made.wanted]
    for each in made.wanted:  # locks are left by their library, so that no two processes hold different ones
        with suppress(OSError):
            (made.root / PARTS / f"{each.file.identity}-{each.file.place.name}.lock").unlink()
    with suppress(OSError):  # not empty: an unfinished download of something else
        (made.root / PARTS).rmdir()
    return places


def present(model: PublicModel, root: Path) -> bool:
    """Whether a model's files lie in their places: each that is named, one or more of every pattern, and all shards
    that an index among them names; nothing is asked or hashed."""
    return all(_part_present(part, root) for part in model.parts)


def _part_present(part: Part, root: Path) -> bool:
    found = {file: list(_matching(part, file, root)) for file in part.files}
    indices = [path for paths in found.values() for path in paths if path.name.endswith(INDEX)]
    return all(paths for file, paths in found.items() if not file.endswith(OPTIONAL)) and all(map(_whole, indices))


def _matching(part: Part, file: str, root: Path) -> Iterator[Path]:
    """The files below `root` that a name or pattern of a part means."""
    if "*" not in file:
        paths = iter([root / part.place(file)])
    else:
        paths = (root / part.folder).glob(file.removeprefix(part.strip))
    return (path for path in paths if path.is_file())


def _whole(index: Path) -> bool:
    """Whether every shard that an index names lies beside it."""
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((index.parent / shard).is_file() for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def gigabytes(size: int) -> str:
    """A size for people: "2.1 GB", "340 MB", "12 kB", in powers of 1000 as disks are sold."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"
