"""The grounding networks in ComfyUI: where their files are, and loading them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import images_of
from ...engine.sam_network import PUBLIC_FILES
from ..finders import dino, vlm
from ..finders.network_folders import CONFIG, folders_in
from ..finders.sam import SamEmbedding, SamNetwork, encode, load_network

SAMS, DETECTORS, VLMS = "sams", "grounding_dino", "LLM"  # folders below models/
_WEIGHTS = (".pth", ".pt", ".safetensors")
_PUBLIC = {
    SAMS: "Public files: " + ", ".join(f"{file} ({name})" for name, file in PUBLIC_FILES.items())
    + " of facebookresearch/segment-anything.",
    DETECTORS: f"Public folders: {', '.join(dino.PUBLIC_FOLDERS)}, with all their files.",
    VLMS: f"Public folders: {', '.join(vlm.PUBLIC_FOLDERS)}, with all their files.",
}  # fmt: skip


def register_folders() -> None:
    """Add models/sams, models/grounding_dino and models/LLM to the folders ComfyUI knows, after those it has."""
    import folder_paths

    for kind in (SAMS, DETECTORS, VLMS):
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))


def sam_choices() -> list[str]:
    """The SAM files ComfyUI lists; never empty, since a combo without choices cannot be shown."""
    import folder_paths

    files = [name for name in folder_paths.get_filename_list(SAMS) if name.lower().endswith(_WEIGHTS)]
    return files or ["put SAM files into models/sams"]


def folder_choices(kind: str) -> list[str]:
    """The model folders of a kind, as names below models/KIND; never empty."""
    import folder_paths

    names = [name for root in folder_paths.get_folder_paths(kind) for name in folders_in(Path(root))]
    return list(dict.fromkeys(names)) or [f"put a model's folder into models/{kind}"]


def find_sam(file: str) -> Path:
    """Where a SAM file lies. RegionStyleError naming the file, the folders and the public files when it is absent."""
    return _find(SAMS, file)


def find_folder(kind: str, name: str) -> Path:
    """Where a model's folder lies, known by its config.json; the error as in `find_sam`."""
    return _find(kind, f"{name}/{CONFIG}").parent


def _find(kind: str, name: str) -> Path:
    try:
        return ComfyHost().find(kind, name)
    except RegionStyleError as error:
        raise RegionStyleError(f"{error} {_PUBLIC[kind]}") from None


def missing(kind: str, name: str | None) -> bool | str:
    """True, or the error as a text: what ComfyUI asks before it runs a workflow. A linked name is not known yet."""
    try:
        if name is not None:
            _find(kind, name if kind == SAMS else f"{name}/{CONFIG}")
    except RegionStyleError as error:
        return str(error)
    return True


def load_sam_file(file: str) -> SamNetwork:
    """The network of a file in models/sams, on the CPU until it is used."""
    return load_network(find_sam(file))


def load_detector(name: str) -> dino.Detector:
    """The Grounding DINO of a folder in models/grounding_dino."""
    return dino.load_detector(find_folder(DETECTORS, name))


def load_vlm(name: str) -> vlm.Vlm:
    """The vision-language model of a folder in models/LLM, in the precision ComfyUI would choose for a large network.

    Where that is a kind of 8 bits, which transformers' layers cannot compute in, it is bfloat16.
    """
    chosen = ComfyHost().dtype("unet")
    dtype = chosen if chosen in (torch.float32, torch.float16, torch.bfloat16) else torch.bfloat16
    return vlm.load_vlm(find_folder(VLMS, name), dtype)


def encode_image(network: SamNetwork, image: Tensor) -> SamEmbedding:
    """An IMAGE encoded; ComfyUI's cache keeps the result as long as picture and network stay the same."""
    return encode(network, images_of(image), ComfyHost())
