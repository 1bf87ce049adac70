"""Where ComfyUI keeps trainings that were cancelled, until they are resumed."""

from __future__ import annotations

import os
from pathlib import Path

# Set by `regionstyle run`, which gives ComfyUI an output folder for one run only: the user's own output folder.
OUTPUT_FOLDER = "REGIONSTYLE_OUTPUT_FOLDER"
SUBFOLDER = "regionstyle"


def state_path(file: str) -> Path:
    """`output/regionstyle/FILE` of the user's ComfyUI. Not among the models: ComfyUI would list it as one."""
    import folder_paths

    return Path(os.environ.get(OUTPUT_FOLDER) or folder_paths.get_output_directory()) / SUBFOLDER / file
