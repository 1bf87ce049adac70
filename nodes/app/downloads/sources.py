"""What a source has: the files of a catalogue's part with address, size and hash, asked of the hub or the server."""

from __future__ import annotations

import errno
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from ...engine.errors import RegionStyleError
from .catalogue import Known, Part, PublicModel

TIMEOUT = 30  # seconds
LAST = ("config.json", "model_index.json")  # in this order: loaders know a folder by the one or the other
DISK_FAULTS = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR
})  # fmt: skip


@dataclass(frozen=True)
class RemoteFile:
    """One file to have: url, `place` below the models folder, size in bytes, and the hashes that are known of it.

    sha256: of large files on the hub, or as the catalogue knows it; git_hash: of small files on the hub (SHA-1 of a
    git blob). hub: whether the hub's token is sent along.
    """

    url: str
    place: PurePosixPath
    size: int | None
    sha256: str | None = None
    git_hash: str | None = None
    hub: str | None = None

    @property
    def identity(self) -> str:
        """A name for what is inside, as far as it is known: parts of different versions are never put together."""
        return (self.sha256 or self.git_hash or f"size-{self.size}")[:40]


def remote_files(model: PublicModel) -> list[RemoteFile]:
    """All files of a model; what loaders know a folder by comes last: config.json, after these model_index.json.

    RegionStyleError in one sentence when the source cannot be reached, lacks a file, or holds another one than the
    catalogue knows.
    """
    files = [file for part in model.parts for file in (_of_hub(model, part) if part.hub else _of_server(part))]
    return sorted(files, key=lambda file: LAST.index(file.place.name) if file.place.name in LAST else -1)


def endpoint() -> str:
    """The hub's address: HF_ENDPOINT, which names a mirror, or the hub itself."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _of_hub(model: PublicModel, part: Part) -> Iterator[RemoteFile]:
    from huggingface_hub import HfApi, hf_hub_url

    hub = str(part.hub)
    with told_in_a_sentence(hub, model):
        info = HfApi(endpoint=endpoint()).model_info(hub, revision=part.revision, files_metadata=True, timeout=TIMEOUT)
    listed = {entry.rfilename: entry for entry in info.siblings or []}
    for pattern in part.files:
        names = [name for name in listed if _matches(name, pattern)]
        if not names and "*" not in pattern:
            raise RegionStyleError(f"{hub} has no file {pattern!r}; the catalogue is older than the repository.")
        for name in names:
            url = hf_hub_url(hub, name, revision=part.revision, endpoint=endpoint())
            yield _checked(part, name, _hub_file(url, part.place(name), listed[name], hub))
    if not any(_matches(name, pattern) for name in listed for pattern in part.files):
        raise RegionStyleError(f"{hub} has none of the files {', '.join(part.files)}; the catalogue is out of date.")


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a file; * does not cross a slash."""
    return name.count("/") == pattern.count("/") and fnmatchcase(name, pattern)


def _hub_file(url: str, place: PurePosixPath, entry: Any, hub: str) -> RemoteFile:
    large = entry.lfs
    sha256 = (large.get("sha256") if isinstance(large, dict) else large.sha256) if large else None
    return RemoteFile(url, place, entry.size, sha256, None if large else entry.blob_id, hub)


def _of_server(part: Part) -> Iterator[RemoteFile]:
    for name in part.files:
        url = f"{part.url}/{name}"
        yield _checked(part, name, RemoteFile(url, part.place(name), _size_at(url)))


def _size_at(url: str) -> int | None:
    """Content-Length of a file on a plain server; None where it does not say."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "regionstyle"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            length = reply.headers.get("Content-Length")
    except urllib.error.HTTPError as error:
        raise RegionStyleError(f"{url}: the server answers {error.code} ({error.reason}).") from None
    except (OSError, ValueError) as error:
        raise RegionStyleError(_unreachable(url, error)) from None
    return int(length) if length and length.isdigit() else None


def _checked(part: Part, name: str, file: RemoteFile) -> RemoteFile:
    """The file with what the catalogue knows; RegionStyleError where the source says otherwise."""
    known = part.known.get(name, Known())
    size, sha256 = known.size or file.size, known.sha256 or file.sha256
    if (file.size or size, file.sha256 or sha256) != (size, sha256):
        raise RegionStyleError(
            f"{part.source} holds another {name} now than the catalogue knows ({file.size} bytes, {file.sha256}; "
            f"expected {size} bytes, {sha256}). Nothing was downloaded; get the file by hand if you trust it."
        )
    return RemoteFile(file.url, file.place, size, sha256, file.git_hash, file.hub)


@contextmanager
def told_in_a_sentence(source: str, model: PublicModel) -> Iterator[None]:
    """What huggingface_hub raises, and the network below it, as a RegionStyleError that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except RegionStyleError:
        raise
    except errors.GatedRepoError:
        raise RegionStyleError(_needs_token(source, model)) from None
    except errors.RepositoryNotFoundError:
        raise RegionStyleError(
            f"{endpoint()}/{source}: no such public repository. If it asks for a token, give one: set HF_TOKEN."
        ) from None
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError):
        raise RegionStyleError(f"{source}: the file is no longer there; the catalogue is out of date.") from None
    except errors.OfflineModeIsEnabled:
        raise RegionStyleError(f"{source}: HF_HUB_OFFLINE is set, so nothing is downloaded. Unset it.") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise RegionStyleError(_needs_token(source, model)) from None
        raise RegionStyleError(f"{source}: the server answers {status}. Try again later.") from None
    except Exception as error:  # the clients below huggingface_hub changed: requests, httpx, httpx2
        raise RegionStyleError(_disk_fault(error) or _unreachable(source, error)) from None


def _disk_fault(error: Exception) -> str:
    """What to say of an error of this machine's disk; "" for any other."""
    if not isinstance(error, OSError) or error.errno not in DISK_FAULTS:
        return ""
    remedy = "Make room, or choose another place with --folder."
    return f"{error.filename or 'the disk'}: {error.strerror or type(error).__name__}. {remedy}"


def _needs_token(source: str, model: PublicModel) -> str:
    return (
        f"{model.name}: {endpoint()}/{source} asks for a token. Accept its licence ({model.licence}) on that page, "
        "make a token in your account's settings, and set HF_TOKEN to it or run: hf auth login"
    )


def _unreachable(source: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{source} cannot be reached ({reason}). Check the network; HF_ENDPOINT names a mirror of the hub."
