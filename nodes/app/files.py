"""Questions about files that are asked before the work."""

from __future__ import annotations

from pathlib import Path

from ..engine.errors import RegionStyleError, wrong_input
from ..engine.io.safe_write import check_output, check_output_folder

LONGEST_NAME = 250  # bytes of one name; file systems end at 255, and a number may have to go behind it


def free_name(place: Path) -> Path:
    """`place` if nothing is there, else the same name with the first free number: picture.png, picture-2.png, ..."""
    number, free = 2, place
    while free.exists():
        free = place.with_name(f"{place.stem}-{number}{place.suffix}")
        number += 1
    return free


def check_folder(option: str, folder: Path) -> None:
    """RegionStyleError, which names the option, for a folder that cannot be made or written into.

    Nothing is left behind: the folder itself is not made.
    """
    _check_names(option, folder)
    there = next((place for place in (folder, *folder.absolute().parents) if place.exists()), Path())
    if not there.is_dir():
        raise wrong_input(option, f"{there}, which is a file", "a folder", "Choose another place.")
    check_output_folder(folder, option)


def check_file(option: str, file: Path) -> None:
    """RegionStyleError, which names the option, for a file that cannot be written where it is wanted."""
    _check_names(option, file)
    if file.is_dir():
        raise wrong_input(option, f"{file}, which is a folder", "the name of a file", "Add a file name.")
    there = next((place for place in file.absolute().parents if place.exists()), Path())
    if not there.is_dir():
        raise wrong_input(option, f"{there}, which is a file", "a folder", "Choose another place.")
    check_output(file, name=option)


def _check_names(option: str, path: Path) -> None:
    for part in path.parts:
        size = len(part.encode("utf-8", "surrogateescape"))
        if "\0" in part or size > LONGEST_NAME:
            got = f"a name of {size} bytes ({part[:20]!r}...)" if size > LONGEST_NAME else "a name with a null in it"
            raise RegionStyleError(f"{option}: got {got}, expected up to {LONGEST_NAME}. Use a shorter, plain name.")
