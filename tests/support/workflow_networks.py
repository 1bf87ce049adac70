"""Small networks of the real classes under the names that the workflows which ship ask for: no download.

The segmenter is the tiny world's, which knows the picture of the workflows; the vision-language model has learnt one
answer by heart; the weights of the detector, of R2R and of the autoencoder beside it are random.
"""

import json
import os
import shutil
from pathlib import Path

import torch
from tiny_networks import WORDS, learn_reply, save_tiny_dino, save_tiny_qwen

REQUEST = "what has three corners should look like a mosaic, and the round thing should shine like neon"
BOXES = {"orange triangle": ("mosaic", (67, 29, 124, 81)), "blue ring": ("neon", (29, 86, 71, 128))}
PICTURE, SEEN = 128, 112  # sides in pixels: of the workflows' picture, and of what the tiny Qwen sees of it
LOADERS = {
    "RegionStyleLoadSam": "file", "RegionStyleLoadDetector": "folder", "RegionStyleLoadVlm": "folder",
    "RegionStyleLoadR2R": "folder",
}  # fmt: skip


def needs_networks(workflow: dict) -> bool:
    """Whether an API-form workflow loads a network that neither ships with the pack nor with ComfyUI."""
    named = {node["inputs"].get(LOADERS.get(node["class_type"])) for node in workflow.values()} - {None}
    return any(not name.startswith("tinyworld/") for name in named)


def loads_public_weights(workflow: dict) -> bool:
    """Whether an API-form workflow loads a checkpoint or FLUX by a stock node: `test_public_weights.py` runs those."""
    return any(node["class_type"] in ("CheckpointLoaderSimple", "UNETLoader") for node in workflow.values())


def save_networks(models: Path) -> Path:
    """One network of each kind in a models folder; returns the folder."""
    from regionstyle.nodes.tinyworld.tiny_sam import load_tiny_sam

    (models / "sams").mkdir()
    torch.save(load_tiny_sam().state_dict(), models / "sams" / "sam_vit_h_4b8939.pth")
    save_tiny_dino(models / "grounding_dino" / "grounding-dino-tiny", words=f"{WORDS} orange triangle")
    save_reader(models / "LLM" / "Qwen2.5-VL-7B-Instruct")
    save_harmonizer(models)
    return models


def save_harmonizer(models: Path) -> Path:
    """Small R2R networks in the published layout, and a random autoencoder of Stable Diffusion's size: ComfyUI's
    loader knows no smaller one."""
    from r2r_networks import small_networks
    from safetensors.torch import save_file

    from regionstyle.nodes.harmonizer.r2r.clear_vae import ClearVae
    from regionstyle.nodes.harmonizer.r2r.files import save_r2r
    from regionstyle.nodes.harmonizer.r2r.keys import to_ldm
    from regionstyle.nodes.harmonizer.r2r.weights import is_clear

    save_r2r(small_networks(), models / "regionstyle_r2r" / "region2region")
    torch.manual_seed(0)
    state = to_ldm({"vae": {name: t for name, t in ClearVae().state_dict().items() if not is_clear([name])}})
    (models / "vae").mkdir()
    half = {name.removeprefix("first_stage_model."): t.half().contiguous() for name, t in state.items()}
    save_file(half, models / "vae" / "vae-ft-mse-840000-ema-pruned.safetensors")
    return models


def save_reader(folder: Path) -> Path:
    """A tiny Qwen2.5-VL that answers the workflow's request."""
    from regionstyle.nodes.grounding.finders.vlm import load_vlm, question

    asked, reply = question(REQUEST, "qwen2_5_vl"), answer()
    vlm = load_vlm(save_tiny_qwen(folder, [asked, reply]), torch.float32)
    learn_reply(vlm, asked, reply, side=SEEN)
    vlm.model.save_pretrained(folder)
    return folder


def answer() -> str:
    """The boxes as Qwen2.5-VL counts them: in pixels of what it sees."""
    return json.dumps([
        {"region": words, "style": style, "bbox_2d": [round(value * SEEN / PICTURE) for value in box]}
        for words, (style, box) in BOXES.items()
    ])  # fmt: skip


def put_networks(saved: Path, server) -> None:
    """Put a models folder's files into a server's own."""
    shutil.copytree(saved, server.input_dir.parent / "models", dirs_exist_ok=True, copy_function=_link)


def _link(source: str, target: str) -> None:
    """A second name for a file, since an autoencoder is large; a copy where that cannot be."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
