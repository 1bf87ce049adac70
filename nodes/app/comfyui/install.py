"""Finding the ComfyUI on this machine, and the Python that runs it."""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...engine.errors import RegionStyleError

PACKAGE = Path(__file__).absolute().parents[3]  # the pack's own folder


def find_comfy() -> Path:
    """The folder of the ComfyUI to use.

    Order: the environment variable COMFYUI_PATH; the ComfyUI whose custom_nodes holds this pack; then comfy-cli's
    order (the ComfyUI around the current folder, its configured default, its most recent one, its standard place).
    """
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return _checked(Path(named).expanduser())
    for folder in _candidates():
        if is_comfy(folder):
            return folder
    raise RegionStyleError(
        "no ComfyUI found. Set COMFYUI_PATH to its folder, give --server URL of a running one, "
        "or install one with: pip install comfy-cli && comfy install"
    )


def _checked(folder: Path) -> Path:
    if not is_comfy(folder):
        raise RegionStyleError(f"COMFYUI_PATH: {folder} is not a ComfyUI folder. Name the folder that holds main.py.")
    return folder.absolute()


def is_comfy(folder: Path) -> bool:
    """Whether the folder is a ComfyUI source tree."""
    return all((folder / part).exists() for part in ("main.py", "nodes.py", "execution.py", "comfy/sd.py"))


def _candidates() -> Iterator[Path]:
    if PACKAGE.parent.name == "custom_nodes":
        yield PACKAGE.parent.parent
    here = Path.cwd()
    yield from (here, *here.parents)
    yield from _comfy_cli_workspaces()


def _comfy_cli_workspaces() -> Iterator[Path]:
    """What `comfy which` would try, read from comfy-cli's own configuration file."""
    config = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error):  # comfy-cli's file, and comfy-cli's place to complain about it
        config.read(_comfy_cli_folder() / "config.ini", encoding="utf-8")
    for key in ("default_workspace", "recent_workspace"):
        workspace = config.get("DEFAULT", key, fallback="")
        if workspace:
            yield Path(workspace).expanduser()
    documents = Path.home() if sys.platform.startswith("linux") else Path.home() / "Documents"
    yield documents / "comfy" / "ComfyUI"


def _comfy_cli_folder() -> Path:
    if sys.platform == "win32":
        return Path.home() / "AppData" / "Local" / "comfy-cli"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "comfy-cli"
    return Path.home() / ".config" / "comfy-cli"


def comfy_python(comfy: Path) -> Path:
    """The interpreter that runs this ComfyUI: COMFYUI_PYTHON, its own virtual environment, or the present one."""
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return Path(named).expanduser()
    binary = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")
    places = [comfy / ".venv" / binary, comfy / "venv" / binary, comfy.parent / "python_embeded" / "python.exe"]
    return next((place for place in places if place.is_file()), Path(sys.executable))
