"""What the training nodes share about files: folders below ComfyUI's input folder, and names that become files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import wrong_input

LONGEST_NAME = 200  # bytes of a name; file systems allow 255, with what is added to it


def check_one_source(image: Any, folder: str) -> None:
    """RegionStyleError for a connected IMAGE (None: none) and a folder's name together, and for neither."""
    if (image is None) == (not folder.strip()):
        got = "nothing" if image is None else "a batch and a folder"
        raise wrong_input("image, folder", got, "one of the two", "Connect pictures, or name a folder of them.")


def input_folder(name: str) -> Path:
    """A folder inside ComfyUI's input folder. RegionStyleError for one that is not there."""
    import folder_paths

    root = Path(folder_paths.get_input_directory()).resolve()
    path = (root / name.strip()).resolve()
    if root not in path.parents or not path.is_dir():
        raise wrong_input("folder", repr(name), f"a folder inside {root}", "Put the pictures there.")
    return path


def files_mark(files: Iterable[Path]) -> str:
    """Names, sizes and times of files: changes when one of them does."""
    return " ".join(f"{file}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def chosen_mark(kind: str, name: str | None, inside: str = "") -> str:
    """Size and time of a file in ComfyUI's folders of a kind: ComfyUI sees its name only, and a new file may have it.

    inside: a file by which a folder is known; then the mark is that of all files in the folder. "" for a linked name
    and for what is not there, which the node itself says.
    """
    import folder_paths

    path = folder_paths.get_full_path(kind, f"{name}/{inside}" if inside else name) if name else None
    if path is None:
        return ""
    files = sorted(file for file in Path(path).parent.iterdir() if file.is_file()) if inside else [Path(path)]
    return files_mark(files)


def file_stem(name: str, folder: str) -> str:
    """A name as a file's stem in `folder`, which the error names. RegionStyleError for one that leads elsewhere."""
    name = "-".join(name.split())
    if not re.fullmatch(r"[\w+-][\w.+-]*", name):
        accepts = "letters, digits, spaces, dots, + and -"
        raise wrong_input("name", repr(name), accepts, f"It becomes a file in models/{folder}.")
    if len(name.encode()) > LONGEST_NAME:
        got = f"{len(name.encode())} bytes ({name[:40]}...)"
        raise wrong_input("name", got, f"at most {LONGEST_NAME}", f"It becomes a file in models/{folder}.")
    return name
