"""Host: whoever runs the method - ComfyUI (`host/comfy.py`) or this process itself (`LocalHost`).

Methods never move a module, print, open a model folder or ask for a device by themselves: they ask their host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from ..errors import Cancelled, RegionStyleError, wrong_input

__all__ = ["Cancelled", "Host", "LocalHost", "Progress", "RegionStyleError", "counted", "missing_file"]

OnProgress = Callable[[str, int, int, "Tensor | None"], None]
PARTS = ("unet", "vae", "text")
Item = TypeVar("Item")


class Progress(Protocol):
    """Reports one loop."""

    def update(self, done: int, preview: Tensor | None = None) -> None:
        """`done` steps are finished; preview `[3,H,W]` in 0..1. Raises when the user has cancelled."""


class Host(Protocol):
    """What every method may ask of the program it runs in."""

    device: torch.device

    def dtype(self, part: str) -> torch.dtype:
        """The dtype to run a network in; part is "unet", "vae" or "text"."""

    def load(self, *modules: nn.Module) -> None:
        """Bring modules onto the device. Call before every use: another program part may have unloaded them."""

    def on_device(self, module: nn.Module) -> AbstractContextManager[Any]:
        """The module on the device for the length of a `with` block; afterwards it takes no room there."""

    def progress(self, total: int, label: str = "") -> Progress:
        """A report of `total` steps."""

    def check(self) -> None:
        """Raise when the user has cancelled: `Cancelled`, or in ComfyUI its own interrupt exception."""

    def empty_cache(self) -> None:
        """Give memory that torch keeps for later back to the device: called between two tries after it ran out."""

    def find(self, kind: str, name: str) -> Path:
        """A model file of a kind ("loras", "checkpoints", ...). RegionStyleError naming file and folders if absent."""


class LocalHost:
    """A host without a program around it: command line, tests, training."""

    def __init__(
        self,
        device: torch.device | str | None = None,
        *,
        on_progress: OnProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
        folders: Mapping[str, Path] | None = None,
    ) -> None:
        """device: CUDA where there is one, otherwise the CPU. on_progress(label, done, total, preview)."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._on_progress = on_progress
        self._cancelled = cancelled
        self._folders = dict(folders or {})

    def dtype(self, part: str) -> torch.dtype:
        """float32; on CUDA float16 for "unet" and "text" (some autoencoders overflow in it)."""
        if part not in PARTS:
            raise wrong_input("part", repr(part), f"one of {', '.join(PARTS)}", "Name the network's role.")
        return torch.float16 if self.device.type == "cuda" and part != "vae" else torch.float32

    def load(self, *modules: nn.Module) -> None:
        """Move the modules to the device, where they stay."""
        for module in modules:
            module.to(self.device)

    @contextmanager
    def on_device(self, module: nn.Module) -> Iterator[None]:
        """Move the module to the device, and its tensors back to where they were. Blocks may be nested."""
        before = {name: tensor.device for name, tensor in _tensors(module)}
        module.to(self.device)
        try:
            yield
        finally:
            for name, tensor in _tensors(module):
                tensor.data = tensor.data.to(before[name])

    def progress(self, total: int, label: str = "") -> Progress:
        """A report that calls `on_progress`, then checks for cancel, so the last preview is shown first."""
        return _LocalProgress(self, total, label)

    def check(self) -> None:
        """Raise `Cancelled` when the `cancelled` function says so."""
        if self._cancelled is not None and self._cancelled():
            raise Cancelled("cancelled by the user")

    def empty_cache(self) -> None:
        """On CUDA and MPS; the CPU keeps nothing back."""
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).empty_cache()

    def find(self, kind: str, name: str) -> Path:
        """`name` inside the folder of its kind, or as a path of its own."""
        folder = self._folders.get(kind)
        for path in ([folder / name] if folder else []) + [Path(name)]:
            if path.is_file():
                return path
        raise missing_file(kind, name, [folder] if folder else [])


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


class _LocalProgress:
    def __init__(self, host: LocalHost, total: int, label: str) -> None:
        self._host, self._total, self._label = host, total, label

    def update(self, done: int, preview: Tensor | None = None) -> None:
        if self._host._on_progress is not None:
            self._host._on_progress(self._label, done, self._total, preview)
        self._host.check()


def counted(items: Sequence[Item], host: Host | None, label: str) -> Iterator[Item]:
    """The items of a loop that may be long: its progress is reported, and cancelling ends it after the present one.

    Without a host they are the items alone.
    """
    progress = None if host is None else host.progress(len(items), label)
    for done, item in enumerate(items, 1):
        yield item
        if progress is not None:
            progress.update(done)


def missing_file(kind: str, name: str, folders: list[Path], *, paths: bool = True) -> RegionStyleError:
    """The error for a model file that is not there; it names the file, the folders and the files like it there.

    paths: whether the host also takes a full path.
    """
    where = " or ".join(str(folder) for folder in folders) or f"no folder is set for {kind}"
    present = sorted(p.name for f in folders if f.is_dir() for p in f.iterdir() if p.suffix == Path(name).suffix)
    there = f" There now: {', '.join(present[:8])}{', ...' if len(present) > 8 else ''}." if present else ""
    remedy = f"Put {name} there{', or give the full path of the file' if paths else ''}.{there}"
    return wrong_input(kind, repr(name), f"a file in {where}", remedy)
