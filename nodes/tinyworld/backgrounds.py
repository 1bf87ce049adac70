"""Backgrounds of the tiny world: plain grounds, procedural natural statistics, and real photographs.

The photographs are the colour pictures inside scikit-image's installed package; nothing is downloaded.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

# words of the caption -> file in scikit-image's data folder
TRAIN_PHOTOS = {
    "astronaut": "astronaut.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
    "galaxy": "hubble_deep_field.jpg",
}
HELD_OUT_PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png"}
PROCEDURAL = ("plain", "gradient", "leaves", "noise")


def photograph_path(filename: str) -> Path:
    """Where a photograph of scikit-image's package lies.

    Raises FileNotFoundError saying which package to install when scikit-image is missing.
    """
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the tiny world's photographs come with scikit-image: pip install scikit-image")
    return Path(spec.submodule_search_locations[0]) / "data" / filename


@lru_cache(maxsize=16)
def photograph(filename: str) -> np.ndarray:
    """One photograph of scikit-image's package, `[H, W, 3]` float32 in 0..1; FileNotFoundError as `photograph_path`."""
    from PIL import Image

    return np.asarray(Image.open(photograph_path(filename)).convert("RGB"), dtype=np.float32) / 255


def photo_crop(filename: str, size: int, random: np.random.Generator) -> np.ndarray:
    """A random square of a photograph at `size`, flipped and colour jittered, `[size, size, 3]`."""
    from PIL import Image

    photo = photograph(filename)
    height, width = photo.shape[:2]
    side = int(random.uniform(size, min(height, width)))
    top, left = int(random.integers(0, height - side + 1)), int(random.integers(0, width - side + 1))
    crop = Image.fromarray((photo[top : top + side, left : left + side] * 255).astype(np.uint8))
    array = np.asarray(crop.resize((size, size), Image.Resampling.BOX), dtype=np.float32) / 255
    if random.random() < 0.5:
        array = array[:, ::-1]
    gain = random.uniform(0.85, 1.15, 3).astype(np.float32)
    return np.clip((array - 0.5) * gain + 0.5 + np.float32(random.uniform(-0.06, 0.06)), 0, 1)


def _muted(random: np.random.Generator) -> np.ndarray:
    """A ground colour: grey with a slight tint, so that saturated objects stand out."""
    return np.clip(random.uniform(0.1, 0.85) + random.uniform(-0.09, 0.09, 3), 0, 1).astype(np.float32)


def plain(size: int, random: np.random.Generator) -> np.ndarray:
    """One muted colour."""
    return np.broadcast_to(_muted(random), (size, size, 3)).copy()


def gradient(size: int, random: np.random.Generator) -> np.ndarray:
    """A linear ramp between two muted colours."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    angle = random.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None]
    ramp = ((ramp - ramp.min()) / (ramp.max() - ramp.min()))[..., None]
    return _muted(random) * (1 - ramp) + _muted(random) * ramp


def noise(size: int, random: np.random.Generator) -> np.ndarray:
    """1/f noise, the mean spectrum of natural pictures, in two muted colours."""
    spectrum = np.fft.rfft2(random.standard_normal((size, size)).astype(np.float32))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    field = np.fft.irfft2(spectrum / np.maximum(frequency, 1.0 / size) ** 1.3, s=(size, size))
    field = np.clip((field - field.mean()) / (field.std() + 1e-6) * 0.25 + 0.5, 0, 1)[..., None]
    return (_muted(random) * (1 - field) + _muted(random) * field).astype(np.float32)


def leaves(size: int, random: np.random.Generator) -> np.ndarray:
    """Dead leaves: muted discs with a power law of radii, each hiding those before it."""
    image = plain(size, random)
    axis = np.arange(size, dtype=np.float32)
    for _ in range(40):
        radius = size * 0.05 * random.uniform(0.02, 1) ** -0.5
        x, y = random.uniform(0, size, 2)
        inside = (axis[None, :] - x) ** 2 + (axis[:, None] - y) ** 2 < radius**2
        image[inside] = _muted(random)
    return image


def background(kind: str, size: int, random: np.random.Generator) -> np.ndarray:
    """A background by kind: one of `PROCEDURAL` or the word of a photograph. `[size, size, 3]` in 0..1."""
    makers = {"plain": plain, "gradient": gradient, "noise": noise, "leaves": leaves}
    if kind in makers:
        return makers[kind](size, random).astype(np.float32)
    return photo_crop((TRAIN_PHOTOS | HELD_OUT_PHOTOS)[kind], size, random)
