"""One file from its source to its place: resumed where it was cut, checked, and never over another file.

huggingface_hub's own `http_get` does the transfer. Its `hf_hub_download` is not used, because its newer versions throw
away what was received when a run ends early, and because it writes over a file that is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Literal

from ...engine.errors import RegionStyleError
from .catalogue import PublicModel
from .sources import RemoteFile, told_in_a_sentence

PARTS = ".regionstyle-downloads"  # folder beside the models, for what is not complete
_CHUNK = 1 << 20  # bytes


def part_of(root: Path, file: RemoteFile) -> Path:
    """Where a file grows until it is complete."""
    return root / PARTS / f"{file.identity}-{file.place.name}.part"


def received(root: Path, file: RemoteFile) -> int:
    """Bytes that an earlier run has left of a file."""
    part = part_of(root, file)
    return part.stat().st_size if part.is_file() else 0


def differs(path: Path, file: RemoteFile) -> str:
    """What tells a local file from the public one: size, or hash. An empty text where nothing does."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, expected {file.size}"
    if file.sha256 and (found := _hash(path, "sha256")) != file.sha256.lower():
        return f"SHA-256 {found}, expected {file.sha256}"
    if file.git_hash and (found := _hash(path, "sha1", f"blob {size}\0".encode())) != file.git_hash.lower():
        return f"git hash {found}, expected {file.git_hash}"
    return ""


def _hash(path: Path, kind: str, before: bytes = b"") -> str:
    digest = hashlib.new(kind, before)
    with path.open("rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(model: PublicModel, file: RemoteFile, root: Path) -> Path:
    """Download one file to its place below `root`, going on from what an earlier run left; returns the place.

    RegionStyleError when the network fails (what came is kept for the next run), when size or hash are wrong (what came
    is thrown away), when something lies at the place by now, and while another process downloads the same file.
    """
    from filelock import FileLock, Timeout

    part = part_of(root, file)
    part.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part.with_suffix(".lock"))
    try:
        with lock.acquire(timeout=0):
            _receive(model, file, part)
            _check(file, part)
            return _put(part, root / file.place)
    except Timeout:
        raise RegionStyleError(f"{file.place}: another process is downloading it. Wait for it to end.") from None


def _receive(model: PublicModel, file: RemoteFile, part: Path) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    there = part.stat().st_size if part.is_file() and file.size is not None else 0
    if file.size is not None and there >= file.size:
        return  # complete, or too long: the check says which
    headers = build_hf_headers() if file.hub else {}
    mode: Literal["ab", "wb"] = "ab" if there else "wb"  # anew where the size, and so what lacks, is not known
    with told_in_a_sentence(file.hub or file.url, model), part.open(mode) as out:
        http_get(
            file.url, out, resume_size=there, headers=headers, expected_size=file.size,
            displayed_filename=file.place.name,
        )  # fmt: skip


def _check(file: RemoteFile, part: Path) -> None:
    if difference := differs(part, file):
        part.unlink()
        raise RegionStyleError(
            f"{file.place.name}: what came is not the public file ({difference}); it was thrown away. Try again, and "
            "if it stays so, the source has changed or something between alters it."
        )


def _put(part: Path, place: Path) -> Path:
    """Move a complete file to its place, which must be free."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(part, place)  # fails where something lies, unlike a rename
    except FileExistsError:
        raise RegionStyleError(f"{place}: a file came there meanwhile; it is left as it is.") from None
    except OSError:  # no hard links here, or another disk behind a linked folder
        _move(part, place)
    else:
        part.unlink()
    return place


def _move(part: Path, place: Path) -> None:
    with place.open("xb"):  # takes the name, or fails where something lies
        pass
    try:
        shutil.move(part, place)
    except BaseException:
        place.unlink(missing_ok=True)
        raise
