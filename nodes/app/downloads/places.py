"""Where public weights belong: ComfyUI's models folder where there is a ComfyUI, else the user's cache."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ...engine.errors import RegionStyleError
from ..comfyui.install import find_comfy


@dataclass(frozen=True)
class Place:
    """root: the models folder; comfyui: whether it is a ComfyUI's, whose loaders list what lies there."""

    root: Path
    comfyui: bool


def models_place(folder: Path | None = None) -> Place:
    """`folder` if one is given, the models folder of the ComfyUI on this machine, or the user's cache.

    RegionStyleError where COMFYUI_PATH names no ComfyUI.
    """
    if folder is not None:
        return Place(folder.expanduser().absolute(), False)
    try:
        return Place(find_comfy() / "models", True)
    except RegionStyleError:
        if os.environ.get("COMFYUI_PATH"):
            raise
    return Place(_cache() / "regionstyle" / "models", False)


def _cache() -> Path:
    """The folder for caches of the system's user."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
