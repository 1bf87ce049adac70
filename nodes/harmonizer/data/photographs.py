"""The freely licensed photographs inside the installed scikit-image and scikit-learn; nothing is downloaded.

Three of ten colour photographs are never trained on: what is measured on them is what a user's pictures meet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input

_FOLDERS = {"skimage": "data", "sklearn": "datasets/images"}
_INSTALL = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
LARGEST = 640  # pixels of the longer side that examples are cut from


@dataclass(frozen=True)
class Photograph:
    """A word for it, the package and the file it lies in, and how often it is drawn."""

    name: str
    package: str
    file: str
    weight: float = 1.0


TRAINED = (
    Photograph("astronaut", "skimage", "astronaut.png", 2.0),
    Photograph("motorcycle", "skimage", "motorcycle_left.png", 2.0),
    Photograph("temple", "sklearn", "china.jpg", 2.0),
    Photograph("rocket", "skimage", "rocket.jpg"),
    Photograph("galaxies", "skimage", "hubble_deep_field.jpg", 0.5),
    Photograph("retina", "skimage", "retina.jpg", 0.5),
    Photograph("tissue", "skimage", "ihc.png", 0.5),
    # grey ones: light without colour
    Photograph("camera man", "skimage", "camera.png", 0.4),
    Photograph("coins", "skimage", "coins.png", 0.3),
    Photograph("gravel", "skimage", "gravel.png", 0.2),
    Photograph("grass", "skimage", "grass.png", 0.2),
)
HELD_OUT = (
    Photograph("cat", "skimage", "chelsea.png"),
    Photograph("coffee", "skimage", "coffee.png"),
    Photograph("flower", "sklearn", "flower.jpg"),
)


def photograph_file(photograph: Photograph) -> Path:
    """Where it lies. RegionStyleError naming the package to install when that is missing."""
    spec = find_spec(photograph.package)
    if spec is None or not spec.submodule_search_locations:
        package = _INSTALL[photograph.package]
        raise wrong_input("photographs", f"no {package}", "it installed", f"Install it: pip install {package}")
    path = Path(spec.submodule_search_locations[0]) / _FOLDERS[photograph.package] / photograph.file
    if not path.is_file():
        raise RegionStyleError(f"photographs: {path} is missing. Install {_INSTALL[photograph.package]} again.")
    return path


@lru_cache(maxsize=32)
def read_photograph(photograph: Photograph, largest: int | None = LARGEST) -> Tensor:
    """The picture `[3,H,W]` in 0..1, its longer side at most `largest` pixels."""
    import numpy as np
    from PIL import Image

    with Image.open(photograph_file(photograph)) as image:
        image = image.convert("RGB")
        if largest is not None and max(image.size) > largest:
            image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


@lru_cache(maxsize=32)
def segments(photograph: Photograph) -> Tensor:
    """Number of the segment of every pixel, `[H,W]`: parts of alike colour, whose outlines follow those of things.

    Felzenszwalb and Huttenlocher's graph segmentation (2004), as scikit-image has it.
    """
    from skimage.segmentation import felzenszwalb

    picture = read_photograph(photograph)
    side = max(picture.shape[1:])
    labels = felzenszwalb(picture.permute(1, 2, 0).numpy(), scale=300, sigma=0.8, min_size=side * side // 400)
    return torch.from_numpy(labels.astype("int64"))
