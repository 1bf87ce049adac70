"""Writing files: whole or not at all, checked before the work, and one training per name.

Every writer makes its file under a name of its own and moves it into place, so that two runs at once, a full disk or a
stop leave the old file or the new one, never a piece.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import RegionStyleError, wrong_input

_PROBE = b"\0" * 4096  # less may fit on a disk that is full


@contextmanager
def replacing(path: Path, name: str = "output") -> Iterator[Path]:
    """A path to write to, which takes the place of `path` when the block ends well and is removed when it does not.

    Folders are made as needed; a link is followed; a device such as /dev/null is written as it is. RegionStyleError
    named `name` when the place cannot be written.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file() and not place.is_dir():
        yield place
        return
    part = place.with_name(f".{uuid.uuid4().hex[:16]}.part")  # an ending that nobody lists
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.chmod(0o644)  # safetensors writes files for the owner only
        os.replace(part, place)
    except OSError as error:
        raise _not_writable(path, name, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_text(path: Path, text: str, name: str = "output") -> None:
    """Write a text in UTF-8, whole or not at all."""
    with replacing(path, name) as part:
        part.write_text(text, encoding="utf-8")


def reserved(candidates: Iterable[Path], name: str = "output") -> Path:
    """The first of some paths where nothing is, now an empty file, so that no other run takes it too."""
    for path in candidates:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("xb").close()
        except FileExistsError:
            continue
        except OSError as error:
            raise _not_writable(path, name, error) from error
        return path
    raise wrong_input(name, "names that are all taken", "a free one", "Choose another.")


@contextmanager
def kept_if_done(path: Path) -> Iterator[Path]:
    """A reserved path, which is removed when the block fails."""
    try:
        yield path
    except BaseException:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def check_output(path: Path, endings: Sequence[str] = (), name: str = "--output") -> None:
    """Before the work: whether a file can be written at a place. Leaves nothing behind.

    endings: those it may have (none: any). RegionStyleError for another ending, a folder, and a place that is
    read-only, full, or does not take such a name.
    """
    if endings and path.suffix.lower() not in endings:
        raise wrong_input(name, str(path), f"a name ending in {' or '.join(endings)}", "Rename it.")
    try:
        if path.is_dir():
            raise wrong_input(name, f"{path}, which is a folder", "a file's name", "Add a file name.")
        if path.exists() and not path.is_file():
            return
        with _made(path.parent):
            if path.exists() and not os.access(path, os.W_OK):
                raise PermissionError(None, "it is read-only", str(path))
            _try_file(path)
    except OSError as error:
        raise _not_writable(path, name, error) from error


def check_output_folder(folder: Path, name: str = "--output") -> None:
    """Before the work: whether files can be written into a folder, which need not be there. Leaves nothing behind."""
    if folder.exists() and not folder.is_dir():
        raise wrong_input(name, f"{folder}, which is a file", "a folder", "Choose another name.")
    try:
        with _made(folder):
            _try_file(folder / f".{uuid.uuid4().hex[:16]}")
    except OSError as error:
        raise _not_writable(folder, name, error) from error


def _try_file(path: Path) -> None:
    """Write a block to a file of that name; where there is one, of another name beside it."""
    probe = path if not path.exists() else path.with_name(f".{uuid.uuid4().hex[:16]}")
    try:
        with probe.open("xb") as file:
            file.write(_PROBE)
            file.flush()
            os.fsync(file.fileno())
    finally:
        with suppress(OSError):
            probe.unlink()


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """The folder there, and afterwards gone again as far as it was not."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:
            with suppress(OSError):
                each.rmdir()


def _not_writable(path: Path, name: str, error: OSError) -> RegionStyleError:
    reason = error.strerror or type(error).__name__
    return wrong_input(name, f"{path} ({reason})", "a place that can be written", "Choose another, or make room there.")


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """A block that one process (or thread) runs at a time for a path; the system frees it when the process ends.

    path: of the lock file, gone afterwards. RegionStyleError when another one is inside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _locked(descriptor) or not _same_file(descriptor, path):
            remedy = "Wait until it has ended, or choose another name."
            raise wrong_input("name", f"{what}, which is running now", "one at a time", remedy)
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(descriptor)
        if os.name == "nt":  # which keeps what is open
            with suppress(OSError):
                path.unlink()


def _same_file(descriptor: int, path: Path) -> bool:
    """Whether the path still is the opened file: who held it before removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _locked(descriptor: int) -> bool:
    """Whether the file could be locked; a system that cannot lock does not stop anybody."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True
