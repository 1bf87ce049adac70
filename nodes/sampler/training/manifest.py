"""The manifest of a training: a JSON list of pairs, with the mask of every thing that was restyled.

The format is the one of RegionRoute's public code (arXiv:2602.19254). Each record has `prompt`; `image_path`, the
restyled picture, and `original_path`, the one before, both relative to the root; `mask_dir`, relative too, and
`image_name`, which name the masks; `objects`, a table thing -> style. The mask of a thing is
`<root>/<mask_dir>/mask_<image_name>_<thing>.png`, white on black; only its brightness is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.io.pictures import read_image, read_picture
from ...engine.io.safe_write import write_text
from .pairs import Pair, Thing

KEYS = ("prompt", "image_path", "original_path", "mask_dir", "image_name", "objects")
LISTED = 5  # missing files that an error names


@dataclass(frozen=True)
class Record:
    """One pair as the file holds it."""

    prompt: str
    image_path: str
    original_path: str
    mask_dir: str
    image_name: str
    objects: Mapping[str, str]

    def mask_file(self, root: Path, thing: str) -> Path:
        """Where the mask of a thing lies."""
        return root / self.mask_dir / f"mask_{self.image_name}_{thing}.png"

    def files(self, root: Path) -> list[Path]:
        """All that it names."""
        masks = [self.mask_file(root, thing) for thing in self.objects]
        return [root / self.image_path, root / self.original_path, *masks]

    def pair(self, root: Path) -> Pair:
        """It as something to train on; files are read when they are wanted."""
        things = tuple(
            Thing(thing, style, partial(_mask, self.mask_file(root, thing))) for thing, style in self.objects.items()
        )
        styled, source = root / self.image_path, root / self.original_path
        return Pair(
            self.image_name, self.prompt, lambda: read_image(styled)[0], lambda: read_image(source)[0], things
        )  # fmt: skip


def read_manifest(path: Path, root: Path | None = None) -> list[Pair]:
    """The pairs of a manifest. root: what its paths are relative to (default: the manifest's folder).

    RegionStyleError for a file that is no such list, and for files that are missing, all of them named.
    """
    root = path.parent if root is None else root
    records = read_records(path)
    missing = [file for record in records for file in record.files(root) if not file.is_file()]
    if missing:
        shown = ", ".join(str(file.relative_to(root)) for file in missing[:LISTED])
        more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
        got = f"{len(missing)} files that are not there: {shown}{more}"
        raise wrong_input("manifest", got, f"files below {root}", "Correct the paths, or give their root.")
    return [record.pair(root) for record in records]


def read_records(path: Path) -> list[Record]:
    """The records of a manifest. RegionStyleError for a file that is no such list."""
    return [_record(number, entry) for number, entry in enumerate(_entries(path), 1)]


def write_manifest(records: Sequence[Record], path: Path) -> None:
    """Write records, whole or not at all."""
    write_text(path, json.dumps([asdict(record) for record in records], indent=1) + "\n", "manifest")


def _entries(path: Path) -> list[Any]:
    if not path.is_file():
        raise wrong_input("manifest", f"no file {path}", "a JSON file", "Make one with 'regionstyle make pairs'.")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise wrong_input(
            "manifest", f"{path.name}, which is no JSON ({error})", "a JSON list", "Correct it."
        ) from None
    if not isinstance(entries, list) or not entries:
        got = "an empty list" if entries == [] else f"a {type(entries).__name__}"
        raise wrong_input("manifest", got, "a list of records", f"Each has {', '.join(KEYS)}.")
    return entries


def _record(number: int, entry: Any) -> Record:
    name = f"manifest, record {number}"
    if not isinstance(entry, dict) or (lacking := [key for key in KEYS if key not in entry]):
        got = f"a {type(entry).__name__}" if not isinstance(entry, dict) else f"no {', '.join(lacking)}"
        raise wrong_input(name, got, f"an object with {', '.join(KEYS)}", "Add what is missing.")
    texts, objects = {key: entry[key] for key in KEYS[:-1]}, entry["objects"]
    if bad := next((key for key, value in texts.items() if not isinstance(value, str)), None):
        raise wrong_input(name, f"{bad} {entry[bad]!r}", "a text", "Put it in quotation marks.")
    if not isinstance(objects, dict) or not objects or not all(isinstance(one, str) for one in objects.values()):
        raise wrong_input(name, f"objects {objects!r}", 'a table like {"man": "pixel-art"}', "Name what was restyled.")
    return Record(**texts, objects=objects)


def _mask(path: Path) -> Tensor:
    return read_picture(path, "mask").mask
