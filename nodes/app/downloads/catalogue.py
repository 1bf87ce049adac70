"""The catalogue of public weights: `catalogue.json` beside this module, read and checked.

Sizes and hashes stand there only where they were published or measured by others; the rest is asked of the hub when a
model is downloaded, which tells the size and hash of every file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ...engine.errors import RegionStyleError, wrong_input

FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Known:
    """What is known of a file without asking: size in bytes and SHA-256, None where it is not."""

    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Part:
    """Files of one source that go into one folder.

    hub: the repository on the Hugging Face hub, or None with `url`, the address the files' names are added to; folder:
    below the models folder; files: names, or patterns with * that do not cross a slash (hub only); strip: what the
    names lose at their beginning.
    """

    folder: str
    files: tuple[str, ...]
    hub: str | None = None
    url: str | None = None
    revision: str = "main"
    strip: str = ""
    known: dict[str, Known] = field(default_factory=dict)

    def place(self, file: str) -> PurePosixPath:
        """Where a file of the source lies below the models folder."""
        return PurePosixPath(self.folder) / file.removeprefix(self.strip)

    def address(self, file: str) -> str:
        """Where anyone can fetch a file, on the hub itself and not on a mirror."""
        if not self.hub:
            return f"{self.url}/{file}"
        return f"https://huggingface.co/{self.hub}/resolve/{quote(self.revision, safe='')}/{file}"

    @property
    def source(self) -> str:
        return self.hub or str(self.url)


@dataclass(frozen=True)
class PublicModel:
    """One name of the catalogue: what it is, whose licence it has, and its parts.

    gated: its page on the hub asks to accept the licence first, so that a token is needed.
    """

    name: str
    title: str
    licence: str
    parts: tuple[Part, ...]
    gated: bool = False

    def known_size(self) -> int | None:
        """Bytes of the files whose size is known, None where none is. Small configuration files are not counted."""
        sizes = [known.size for part in self.parts for known in part.known.values() if known.size]
        weights = [file for part in self.parts for file in part.files if not file.endswith((".json", ".txt"))]
        return sum(sizes) if sizes and len(sizes) == len(weights) else None


@dataclass(frozen=True)
class Catalogue:
    """models: by name; sets: name -> (title, names where there is a ComfyUI, names elsewhere)."""

    models: dict[str, PublicModel]
    sets: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]

    def choose(self, names: Sequence[str], comfyui: bool) -> list[PublicModel]:
        """The models of some names, each once; the name of a set stands for its models.

        RegionStyleError, which lists what there is, for a name that is not there.
        """
        chosen: dict[str, PublicModel] = {}
        for name in names:
            if name not in self.models and name not in self.sets:
                there = ", ".join([*self.sets, *self.models])
                raise wrong_input("NAME", repr(name), f"one of: {there}", "'regionstyle models' says what each is.")
            inside = self.sets[name][1 if comfyui else 2] if name in self.sets else (name,)
            chosen.update({each: self.models[each] for each in inside})
        return list(chosen.values())


def load_catalogue(file: Path | None = None) -> Catalogue:
    """The catalogue that ships, or another file of its form. RegionStyleError for a file that is none."""
    file = FILE if file is None else file
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        models = [_model(entry) for entry in data["models"]]
        sets = {
            name: (each["title"], tuple(each["comfyui"]), tuple(each["elsewhere"]))
            for name, each in data["sets"].items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RegionStyleError(f"catalogue: {file} cannot be read ({type(error).__name__}: {error}).") from error
    return Catalogue({model.name: model for model in models}, sets)


def _model(entry: dict[str, Any]) -> PublicModel:
    parts = tuple(_part(part) for part in entry["parts"])
    return PublicModel(entry["name"], entry["title"], entry["licence"], parts, bool(entry.get("gated")))


def _part(entry: dict[str, Any]) -> Part:
    known = {file: Known(**facts) for file, facts in entry.get("known", {}).items()}
    options = {name: entry[name] for name in ("hub", "url", "revision", "strip") if name in entry}
    if ("hub" in options) == ("url" in options):
        raise ValueError(f"a part of {entry['folder']} needs either hub or url")
    return Part(entry["folder"], tuple(entry["files"]), known=known, **options)
