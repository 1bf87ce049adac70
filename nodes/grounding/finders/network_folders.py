"""Folders in which `transformers` keeps a network: what they hold, and where ComfyUI looks for them.

Nothing is ever fetched: a network is used when its folder is there.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...engine.errors import wrong_input

CONFIG = "config.json"


def model_type(folder: Path) -> str:
    """What kind of network a folder says it holds. RegionStyleError when its config.json cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return str(config["model_type"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        got = f"{folder} ({type(error).__name__})"
        accepts = f"a folder with a {CONFIG} that names a model_type"
        raise wrong_input("model folder", got, accepts, "Download all files of the model into it again.") from error


def folders_in(root: Path, depth: int = 2) -> list[str]:
    """The names, relative to `root`, of the folders below it that hold a config.json; sorted."""
    folders = []
    for level in range(1, depth + 1):
        folders += [path.parent.relative_to(root).as_posix() for path in root.glob("/".join(["*"] * level + [CONFIG]))]
    return sorted(folders)
