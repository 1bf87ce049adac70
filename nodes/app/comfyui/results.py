"""The files that a workflow makes, and their way to the user's folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import free_name


@dataclass(frozen=True)
class Result:
    """A file that was made: its place below an output folder, and what writes it to a path."""

    name: Path
    write: Callable[[Path], object]


def listed_files(outputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What nodes list in their outputs under any name (images, audio, latents, ...): filename, subfolder, type.

    Left out: files of the input folder, which nodes that load a picture may list.
    """
    for output in outputs.values():
        for entries in output.values() if isinstance(output, Mapping) else ():
            for entry in entries if isinstance(entries, list) else ():
                if isinstance(entry, Mapping) and entry.get("filename") and entry.get("type") in ("output", "temp"):
                    yield entry


def listed_texts(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(node id, text) of what nodes say in their outputs."""
    for node_id, output in outputs.items():
        texts = output.get("text") if isinstance(output, Mapping) else None
        for text in [texts] if isinstance(texts, str) else texts or ():
            if isinstance(text, str) and text.strip():
                yield str(node_id), text


def safe_path(entry: Mapping[str, Any]) -> Path:
    """subfolder/filename as a path that cannot leave the folder it is put in."""
    text = f"{entry.get('subfolder') or ''}/{entry['filename']}".replace("\\", "/")
    parts = [part.replace(":", "_") for part in PurePosixPath(text).parts if part not in ("/", "..", ".")]
    return Path(*parts)


def deliver(results: Iterable[Result], folder: Path) -> Iterator[Path]:
    """Writes each result below the folder, keeping subfolders; an earlier file is never overwritten."""
    for result in results:
        place = free_name(folder / result.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        result.write(place)
        yield place
