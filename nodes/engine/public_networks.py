"""Published networks read from the user's folders: what more than one slice needs of them. Nothing is fetched.

Files are read as tensors only (`weights_only`). Each function imports what it needs when it is called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import wrong_input

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION = "https://download.pytorch.org/models"
VGG19_FILE = "vgg19-dcbb9e9d.pth"
Parts = tuple[Any, Any, tuple[float, ...], tuple[float, ...]]  # model, tokenizer, pixel mean and deviation


def weights_file(folder: Path, name: str, url: str) -> Path:
    """A weights file in the user's folder; RegionStyleError naming file, folder and public address."""
    path = Path(folder) / name
    if not path.is_file():
        raise wrong_input("weights", f"no {name} in {folder}", "the published file", f"Put it there: {url}/{name}")
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict (also one kept as "state_dict"), tensors only, on the CPU. RegionStyleError for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what is no such file makes the reader fail in many ways
        got = f"{path} ({type(error).__name__})"
        raise wrong_input("weights", got, "a file of tensors", "Download it again.") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise wrong_input("weights", str(path), "a file of named tensors", "Download it again.")
    return state


def filled(module: nn.Module, path: Path) -> Any:
    """A network with the weights of its published file, frozen. RegionStyleError for another network's file."""
    try:
        module.load_state_dict(read_tensors(path))
    except RuntimeError as error:
        got = f"{path} ({str(error).splitlines()[0]})"
        raise wrong_input("weights", got, f"the file of {type(module).__name__}", "Download it again.") from error
    return module.eval().requires_grad_(False)


def clip_parts(folder: Path) -> Parts:
    """A CLIP as `transformers` keeps it, read from a folder. RegionStyleError for another folder."""
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    lacking = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if lacking:
        accepts = "a CLIP in the transformers layout (config.json, model.safetensors, tokenizer, preprocessor)"
        remedy = "Put openai/clip-vit-base-patch32 or another CLIP into that folder."
        raise wrong_input("CLIP folder", f"no {' and no '.join(lacking)} in {folder}", accepts, remedy)
    model = CLIPModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    processor: Any = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    return model.eval().requires_grad_(False), tokenizer, tuple(processor.image_mean), tuple(processor.image_std)
