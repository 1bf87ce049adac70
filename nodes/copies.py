"""Two copies of this pack in one ComfyUI: the one that is loaded last takes over the nodes, and nobody would know."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path

PREFIX = "RegionStyle"  # every node id of this pack begins with it
_NAME = re.compile(r'^name\s*=\s*"regionstyle"\s*$', re.MULTILINE)


def warn_of_copies() -> None:
    """One warning that names both folders, where ComfyUI has loaded another copy from custom_nodes or is going to.

    A copy that was loaded before has its nodes in ComfyUI's list. One that comes later may be too old to look, so the
    neighbouring folders are looked at as well. Where the other copy has given the warning already there is no second.
    Nothing is said of a copy elsewhere, such as the installed package that `regionstyle run` loads.
    """
    import folder_paths

    import nodes

    folders = [Path(folder) for folder in folder_paths.get_folder_paths("custom_nodes")]
    own = _folder(__name__.partition(".")[0])
    if own is None or own.parent not in folders:
        return
    earlier = [folder for folder in loaded_copies(nodes.NODE_CLASS_MAPPINGS, own) if folder.parent in folders]
    others = list(dict.fromkeys([*earlier, *copies_in(folders, own)]))
    if others and not any(_looks(folder) for folder in earlier):
        logging.getLogger("regionstyle").warning(
            "RegionStyle is installed twice: in %s and in %s. The nodes of the one that ComfyUI loads last are used. "
            "Remove one of the folders, or move it out of custom_nodes.", own, ", ".join(map(str, others)),
        )  # fmt: skip


def loaded_copies(registered: Mapping[str, type], own: Path) -> list[Path]:
    """The folders of other packs whose nodes are registered under this pack's ids, each once."""
    classes = [node for name, node in registered.items() if name.startswith(PREFIX)]
    folders = [_folder(node.__module__.partition(".")[0]) for node in classes]
    return list(dict.fromkeys(folder for folder in folders if folder is not None and not _same(folder, own)))


def _folder(package: str) -> Path | None:
    """Where ComfyUI loaded a pack from, a link as it is called there."""
    file = getattr(sys.modules.get(package), "__file__", None)
    return Path(file).parent if file else None


def copies_in(folders: list[Path], own: Path) -> list[Path]:
    """Other folders beside this pack's that ComfyUI loads and whose pyproject.toml has this pack's name."""
    projects = [project for folder in folders if folder.is_dir() for project in sorted(folder.glob("*/pyproject.toml"))]
    return [project.parent for project in projects if not _same(project.parent, own) and _is_copy(project)]


def _same(folder: Path, own: Path) -> bool:
    return folder.resolve() == own.resolve()


def _is_copy(project: Path) -> bool:
    name = project.parent.name
    if name.startswith(".") or name.endswith(".disabled"):  # ComfyUI leaves those out
        return False
    try:
        return bool(_NAME.search(project.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False


def _looks(folder: Path) -> bool:
    """Whether a loaded copy is new enough to have looked for others itself."""
    return (folder / "nodes" / Path(__file__).name).is_file()
