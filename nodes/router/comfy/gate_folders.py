"""Learnt gates in ComfyUI: where their files are."""

from __future__ import annotations

from pathlib import Path

from ...engine.host.comfy import ComfyHost
from ..gates.files import FOLDER, load_gate
from ..gates.learnt_gate import LearntGate

KIND = "regionstyle_gates"  # folder below models/


def register_folder() -> None:
    """Add models/regionstyle_gates and the gates of the pack to the folders ComfyUI knows."""
    import folder_paths

    folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))
    folder_paths.add_model_folder_path(KIND, str(FOLDER))


def gate_choices() -> list[str]:
    """The gate files ComfyUI lists; never empty, since a combo without choices cannot be shown."""
    import folder_paths

    files = [name for name in folder_paths.get_filename_list(KIND) if name.lower().endswith(".safetensors")]
    return files or [f"put gates into models/{KIND}"]


def load(file: str) -> LearntGate:
    """The gate of a file, on the CPU, where it runs: it is small."""
    return load_gate(ComfyHost().find(KIND, file))
