"""A training set in RPHarmony's layout made of the training photographs: nothing is downloaded.

OUT/R-Poisson/...   Random Poisson Blending, as `rpharmony` makes it; donors are other pieces of the photographs
OUT/R-Jitter/...    the foreground's exposure, white balance, saturation and contrast changed at random
OUT/train.jsonl, train.txt   both
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...engine.io.safe_write import write_text
from .composites import truth_and_mask
from .jitter import jittered
from .photographs import TRAINED
from .rpharmony import QUALITY, DataSettings, make_data_set
from .sources import folder_sources

POISSON, JITTER = "R-Poisson", "R-Jitter"
FEWEST = 40  # pixels of a mask, below which a picture is drawn anew


def make_photograph_set(output: Path, count: int, size: int, seed: int = 0) -> list[str]:
    """Make `count` composites of pictures of size x size pixels, every other one by Random Poisson Blending.

    Returns their paths below the folder, as in its lists. The same seed gives the same files.
    """
    random = torch.Generator().manual_seed(seed)
    sources = output / "sources"
    composites = []
    for number in range(count):
        truth, mask = _piece(size, random)
        if number % 2:
            composites.append(_save_jittered(output / JITTER, f"rj{number:06d}", truth, mask, random))
        else:
            _save(truth, sources / "images" / f"{number:06d}.png")
            _save(mask[None], sources / "masks" / f"{number:06d}.png")
    settings = DataSettings(POISSON, low=0.5, high=1.0, test=0.0, largest=size, seed=seed)
    make_data_set(folder_sources(sources / "images", sources / "masks"), output, settings)
    composites += (output / "train.txt").read_text(encoding="utf-8").split()
    _write_lists(output, sorted(composites))
    return sorted(composites)


def _piece(size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A picture `[3,size,size]` and a mask `[size,size]` that is not tiny."""
    while True:
        truth, mask, _, _ = truth_and_mask(TRAINED, size, random)
        if int(mask.sum()) >= FEWEST:
            return truth, mask


def _save_jittered(folder: Path, name: str, truth: Tensor, mask: Tensor, random: torch.Generator) -> str:
    """Composite, mask and truth below a subset's folder; the composite's path below the data set's."""
    changed = jittered(truth[None], mask[None, None], random)[0]
    _save(torch.where(mask > 0.5, changed, truth), folder / "composite_images" / f"{name}_1_1.jpg")
    _save(mask[None], folder / "masks" / f"{name}_1.png")
    _save(truth, folder / "real_images" / f"{name}.jpg")
    return f"{folder.name}/composite_images/{name}_1_1.jpg"


def _save(picture: Tensor, path: Path) -> None:
    """`[3,H,W]` or `[1,H,W]` in 0..1."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    values: np.ndarray = (picture.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.save(path, quality=QUALITY, subsampling=0)  # of JPEG; PNG has neither


def _write_lists(output: Path, composites: list[str]) -> None:
    lines = [json.dumps({"file_name": path, "text": ""}) for path in composites]
    write_text(output / "train.jsonl", "".join(f"{line}\n" for line in lines), "output")
    write_text(output / "train.txt", "".join(f"{path}\n" for path in composites), "output")
