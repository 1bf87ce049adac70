"""Small R2R networks with random weights everywhere, and a small data set in the published layout."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from regionstyle.nodes.harmonizer.r2r.architecture import TINY
from regionstyle.nodes.harmonizer.r2r.networks import R2RNetworks, new_networks


def small_networks(seed: int = 0) -> R2RNetworks:
    """R2R's classes with few channels; what is zero at first has small random weights, so that it shows."""
    networks = new_networks(TINY, seed).frozen()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (networks.vae, networks.unet, networks.controller):
            for name, parameter in part.named_parameters():
                if not parameter.any() and not name.endswith("bias"):
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=random))
        for filter in networks.vae.filters:
            filter.alpha.copy_(torch.randn(9, generator=random))
            filter.beta.copy_(torch.randn(1, generator=random))
    return networks


def save_harmony_data(root: Path, count: int = 4, side: int = 96, split: str = "train") -> Path:
    """Smooth pictures whose middle has another colour in the composite, in RPHarmony's layout."""
    random = np.random.default_rng(0)
    names = []
    for folder in ("composite_images", "masks", "real_images"):
        (root / "R-DUTS" / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        real = np.asarray(
            Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), Image.BICUBIC)
        )
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : -side // 4, side // 4 : -side // 4] = 255
        changed = np.clip(real * random.uniform(0.6, 1.4, 3), 0, 255).astype(np.uint8)
        composite = np.where(mask[..., None] > 0, changed, real)
        name = f"rd{split}{number}"
        Image.fromarray(real).save(root / "R-DUTS" / "real_images" / f"{name}.jpg", quality=95)
        Image.fromarray(mask).save(root / "R-DUTS" / "masks" / f"{name}_1.png")
        Image.fromarray(composite).save(root / "R-DUTS" / "composite_images" / f"{name}_1_1.jpg", quality=95)
        names.append({"file_name": f"R-DUTS/composite_images/{name}_1_1.jpg", "text": ""})
    (root / f"{split}.jsonl").write_text("".join(json.dumps(name) + "\n" for name in names))
    return root
