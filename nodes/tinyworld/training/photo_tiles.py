"""Tiles of photographs as restyling at full size cuts them: 128 pixels of a photograph of 300 to 1400 pixels.

The photographs are those of scikit-image's package that no measurement uses: "cat" and "coffee" are held out, and
"camera" is left for choosing settings. Grey ones are tinted, all are mirrored and their channels exchanged, since
there are few.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..backgrounds import TRAIN_PHOTOS, photograph
from ..world import SIZE

# Files of scikit-image and how often each is drawn: photographs of things more than textures, which are grey.
PHOTOS = {
    **{TRAIN_PHOTOS[word]: 3.0 for word in ("astronaut", "motorcycle", "rocket")},
    **dict.fromkeys((TRAIN_PHOTOS["galaxy"], "ihc.png", "retina.jpg"), 1.0),
    **dict.fromkeys(("coins.png", "brick.png", "grass.png", "gravel.png", "moon.png"), 1.0),
}
SIDES = (300, 1400)  # longer side of the photograph a tile is cut from
ENLARGED = 2.5  # a photograph at most: users' are sharp or soft, but not blank


def photo_tile(random: np.random.Generator, side: int = SIZE, photos: Mapping[str, float] = PHOTOS) -> np.ndarray:
    """A square `[side,side,3]` in 0..1 of a photograph at a size drawn evenly in octaves."""
    from PIL import Image

    odds = np.array(list(photos.values()))
    photo = photograph(list(photos)[int(random.choice(len(photos), p=odds / odds.sum()))])
    height, width = photo.shape[:2]
    scale = np.exp(random.uniform(*np.log(SIDES))) / max(height, width)
    scale = max(min(scale, ENLARGED), side / min(height, width))
    cut = side / scale
    left, top = (float(random.uniform(0, max(0.0, length - cut))) for length in (width, height))
    x, y, reach = int(left), int(top), int(np.ceil(cut)) + 1
    part = Image.fromarray((photo[y : y + reach, x : x + reach] * 255).round().astype(np.uint8))
    box = (left - x, top - y, min(left - x + cut, part.width), min(top - y + cut, part.height))
    tile = np.asarray(part.resize((side, side), Image.Resampling.BICUBIC, box=box), dtype=np.float32) / 255
    return _recoloured(tile, random)


def _recoloured(tile: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Mirrored or not, two channels exchanged or not, lighter or darker; a grey one in a tint."""
    tile = tile[:, ::-1] if random.random() < 0.5 else tile
    tile = tile[..., random.permutation(3)] if random.random() < 0.5 else tile
    grey = float(np.ptp(tile, axis=-1).max()) < 0.02
    gain = random.uniform(*((0.5, 1.1) if grey else (0.85, 1.15)), 3).astype(np.float32)
    return np.clip((tile * gain - 0.5) * np.float32(random.uniform(0.8, 1.2)) + 0.5, 0, 1)
