"""Small questions about files."""

from pathlib import Path


def free_name(place: Path) -> Path:
    """`place` if nothing is there, else the same name with the first free number: picture.png, picture-2.png, ..."""
    number, free = 2, place
    while free.exists():
        free = place.with_name(f"{place.stem}-{number}{place.suffix}")
        number += 1
    return free
