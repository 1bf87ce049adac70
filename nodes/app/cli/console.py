"""The command line's host: progress bars on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...engine.host.base import LocalHost

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine.io.pictures import Picture


Shown = Callable[[str, int, "Tensor"], None]  # the loop's label, its steps that are done, and a preview `[3,H,W]`


class _Bars:
    """One bar at a time; a new label closes the one before."""

    def __init__(self, shown: Shown | None) -> None:
        from tqdm import tqdm

        self._make: Any = tqdm
        self._shown = shown
        self._bar: Any = None
        self._key = ("", 0)

    def __call__(self, label: str, done: int, total: int, preview: Tensor | None) -> None:
        if self._key != (label, total) or self._bar is None or done <= self._bar.n:
            self.close()
            self._bar, self._key = self._make(total=total, desc=label, unit="step", leave=False), (label, total)
        self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()
        if self._shown is not None and preview is not None:
            self._shown(label, done, preview)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def console_host(
    device: str | None, cancelled: Callable[[], bool] | None = None, shown: Shown | None = None
) -> LocalHost:
    """A host that shows a bar per loop; device: "cpu", "cuda" or None for the best there is.

    cancelled: asked between steps; shown: gets the previews.
    RegionStyleError when CUDA is asked for and there is none.
    """
    from ..local_model import check_device

    check_device(device)
    bars = _Bars(shown)

    def asked() -> bool:
        """Closes the bar of a loop that ends here, so that what is said next has a line of its own."""
        stop = cancelled is not None and cancelled()
        if stop:
            bars.close()
        return stop

    return LocalHost(device, on_progress=bars, cancelled=asked)


def say_lines(message: str) -> None:
    """A message of any number of lines, also none, on stderr."""
    for line in message.splitlines():
        say(line)


def say(message: str) -> None:
    """One line on stderr, for what the user should know about a command that goes on."""
    sys.stderr.write(f"regionstyle: {' '.join(message.split())}\n")


def say_lost(source: Path, target: Path, picture: Picture, lost: Sequence[str]) -> None:
    """What reading a picture and writing its result left out, a line each."""
    for notice in picture.notices:
        say(f"{source.name}: {notice}")
    for notice in lost:
        say(f"{target.name}: {notice}")
