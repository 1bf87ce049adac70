"""Finding the ComfyUI on this machine, and the Python that runs it."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
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
    """The interpreter that runs this ComfyUI: see `choose_python`.

    Raises RegionStyleError, which names COMFYUI_PYTHON, where that interpreter cannot import what ComfyUI needs. A
    ComfyUI run by conda, by the system's Python or from a portable build has none in its folder, and the present one
    need not be the right one.
    """
    python = choose_python(comfy)
    if problem := import_problem(python, comfy):
        raise RegionStyleError(
            f"{python} cannot run the ComfyUI in {comfy}: {problem}. Set COMFYUI_PYTHON to the Python that runs it, or "
            f"install there what its requirements.txt and {PACKAGE / 'requirements.txt'} name."
        )
    return python


def choose_python(comfy: Path) -> Path:
    """COMFYUI_PYTHON, or the Python in ComfyUI's own virtual environment or portable build, or the present one."""
    named = os.environ.get("COMFYUI_PYTHON")
    if named:
        return Path(named).expanduser()
    binary = Path("Scripts", "python.exe") if sys.platform == "win32" else Path("bin", "python")
    places = [comfy / ".venv" / binary, comfy / "venv" / binary, comfy.parent / "python_embeded" / "python.exe"]
    return next((place for place in places if place.is_file()), Path(sys.executable))


@cache
def import_problem(python: Path, comfy: Path) -> str:
    """Why this Python cannot import this ComfyUI, or an empty text where it can; each pair is asked once.

    What is installed is looked up first (0.2 s). Only where a requirement is absent, which may be one that this ComfyUI
    works without, are its modules imported for an answer (10 s).
    """
    try:
        if absent_requirements(python, comfy / "requirements.txt"):
            _ask(python, IMPORT_COMFY, cwd=comfy)
    except RegionStyleError as error:
        return str(error)
    return ""


@cache
def absent_requirements(python: Path, requirements: Path) -> tuple[str, ...]:
    """The packages named in a requirements.txt that this Python does not have, in any version.

    What ComfyUI's file lists as not essential is left out.
    """
    text = requirements.read_text(encoding="utf-8").partition("#non essential")[0]
    names = re.findall(r"^[A-Za-z0-9][A-Za-z0-9._-]*", text, re.MULTILINE)
    return tuple(_ask(python, PRINT_ABSENT, *names).split())


PRINT_ABSENT = """
import sys
from importlib.metadata import PackageNotFoundError, version

for name in sys.argv[1:]:
    try:
        version(name)
    except PackageNotFoundError:
        print(name)
"""

# As main.py does it. `utils` before `nodes`: 0.3.64 puts comfy/ on the path, where another utils.py lies.
IMPORT_COMFY = """
import sys
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config, execution, nodes, server
"""


def _ask(python: Path, code: str, *arguments: str, cwd: Path | None = None) -> str:
    """What the code prints in that Python; a RegionStyleError with its last word where it fails."""
    try:
        done = subprocess.run(
            [str(python), "-c", code, *arguments], cwd=cwd, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise RegionStyleError(error.strerror or str(error)) from None
    if done.returncode:
        raise RegionStyleError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return done.stdout
