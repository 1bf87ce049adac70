"""LoRA files in ComfyUI's folders: the user's own in models/loras, and those that come with the pack.

The pack's stand in a folder kind of their own, so that they do not fill the lists of other packs' LoRA loaders.
"""

from __future__ import annotations

from pathlib import Path

from ..host.comfy import ComfyHost
from .comfy_files import chosen_mark

LORAS, BUNDLED = "loras", "regionstyle_experts"  # kinds of folders; a name in both means the user's file


def expert_files() -> list[str]:
    """The LoRA files there are, as nodes of this pack list them, each once."""
    import folder_paths

    kinds = [kind for kind in (LORAS, BUNDLED) if kind in folder_paths.folder_names_and_paths]
    return list(dict.fromkeys(name for kind in kinds for name in folder_paths.get_filename_list(kind)))


def find_expert(name: str) -> Path:
    """Where a listed file lies. RegionStyleError naming the file and models/loras when it is in none of the folders."""
    import folder_paths

    bundled = BUNDLED in folder_paths.folder_names_and_paths and folder_paths.get_full_path(BUNDLED, name)
    if bundled and folder_paths.get_full_path(LORAS, name) is None:
        return Path(bundled)
    return ComfyHost().find(LORAS, name)


def expert_mark(name: str | None) -> str:
    """Size and time of a listed file, as in `chosen_mark`."""
    return chosen_mark(LORAS, name) or chosen_mark(BUNDLED, name)
