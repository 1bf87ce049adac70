"""The tiny world: small pictures of named objects whose masks, boxes and restyled truth are exact.

A scene is a function of its seed alone. It is what the pack's tiny networks learn from and what its results are
measured against: no data set, no download, no annotation error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .backgrounds import HELD_OUT_PHOTOS, PROCEDURAL, TRAIN_PHOTOS, background, photo_crop
from .shapes import SHAPES, shape_distance
from .styles import STYLES, apply_style

SIZE = 128
COLORS = {
    "red": (0.86, 0.10, 0.10),
    "orange": (0.98, 0.52, 0.05),
    "yellow": (0.97, 0.90, 0.12),
    "green": (0.10, 0.68, 0.18),
    "cyan": (0.10, 0.82, 0.88),
    "blue": (0.12, 0.20, 0.88),
    "purple": (0.55, 0.12, 0.72),
    "pink": (1.00, 0.45, 0.72),
}
_BACKGROUND_ODDS = {"plain": 0.42, "gradient": 0.2, "leaves": 0.08, "noise": 0.1}


@dataclass(frozen=True)
class SceneObject:
    """One named object: its words, its visible soft mask `[H, W]` in 0..1 and its box x0, y0, x1, y1 in pixels.

    hidden: the share of it, 0..1, that objects in front of it cover.
    """

    shape: str
    color: str
    mask: np.ndarray
    box: tuple[int, int, int, int]
    style: str | None = None
    hidden: float = 0.0

    @property
    def phrase(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def caption(self) -> str:
        return f"a {self.phrase}" + (f" in {self.style} style" if self.style else "")


@dataclass(frozen=True)
class Scene:
    """A picture `[H, W, 3]` in 0..1 with its objects (back to front), background word and style of the whole."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    background: str
    style: str | None = None

    @property
    def caption(self) -> str:
        things = " and ".join(thing.caption for thing in self.objects)
        ground = "" if self.background == "none" else f" on {self.background} background"
        return things + ground + (f" in {self.style} style" if self.style else "")


def _place(random: np.random.Generator, small: bool) -> tuple[tuple[float, float], float]:
    radius = random.uniform(11, 17) if small else random.uniform(20, 36)
    low, high = radius * 0.8, SIZE - radius * 0.8
    return (float(random.uniform(low, high)), float(random.uniform(low, high))), float(radius)


def _surface(color: str, distance: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Colour, photographic texture and light from the top left, `[H, W, 3]`."""
    base = np.clip(np.array(COLORS[color]) + random.uniform(-0.05, 0.05, 3), 0, 1)
    source = list(TRAIN_PHOTOS.values())[int(random.integers(len(TRAIN_PHOTOS)))]
    grain = photo_crop(source, SIZE, random).mean(-1)
    texture = 1 + random.uniform(0, 0.35) * (grain - grain.mean())
    slope_y, slope_x = np.gradient(np.clip(distance, -9, 0))
    light = 1 + 0.16 * np.clip(-(slope_x + slope_y), -1, 1)
    return np.clip(base * (texture * light)[..., None], 0, 1).astype(np.float32)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.where(mask.max(1) > 0.5)[0], np.where(mask.max(0) > 0.5)[0]
    if not len(rows) or not len(columns):
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _pick_words(count: int, random: np.random.Generator) -> list[tuple[str, str]]:
    """Colour and shape of each object; two of one shape now and then, then told apart by colour."""
    colors = [str(c) for c in random.permutation(list(COLORS))[:count]]
    shapes = [str(s) for s in random.permutation(SHAPES)[:count]]
    if count > 1 and random.random() < 0.15:
        shapes[1] = shapes[0]
    return list(zip(colors, shapes, strict=True))


def _draw(
    image: np.ndarray, color: str, shape: str, random: np.random.Generator, taken: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Paint one object, at a place that hides little of the others. Returns image and the object's full mask."""
    best, best_overlap = None, np.inf
    for _ in range(6):
        center, radius = _place(random, small=random.random() < 0.12)
        distance = shape_distance(shape, SIZE, center, radius, float(random.uniform(-0.25, 0.25)))
        mask = np.clip(0.5 - distance, 0, 1)
        overlap = max((float((mask * other).sum() / other.sum()) for other in taken), default=0.0)
        if overlap < best_overlap:
            best, best_overlap = (distance, mask), overlap
        if overlap < random.choice([0.02, 0.02, 0.02, 0.3]):
            break
    assert best is not None
    distance, mask = best
    surface = _surface(color, distance, random)
    return image * (1 - mask[..., None]) + surface * mask[..., None], mask


def background_word(random: np.random.Generator, split: str) -> str:
    """Draw a background: plain and procedural grounds mostly, a named photograph otherwise."""
    photos = list(HELD_OUT_PHOTOS if split == "held-out" else TRAIN_PHOTOS)
    odds = [*_BACKGROUND_ODDS.values(), 1 - sum(_BACKGROUND_ODDS.values())]
    kind = str(random.choice([*PROCEDURAL, "photo"], p=odds))
    return photos[int(random.integers(len(photos)))] if kind == "photo" else kind


def scene(seed: int, *, split: str = "train", count: int | None = None, background_kind: str | None = None) -> Scene:
    """The scene of a seed.

    seed: any non-negative int; split "train" or "held-out" (its photographs and its random stream are disjoint);
    count: number of objects, 1..3 (None: drawn); background_kind: a word of `backgrounds` (None: drawn).
    """
    if split not in ("train", "held-out"):
        raise ValueError(f"split must be 'train' or 'held-out', got {split!r}")
    random = np.random.default_rng([int(split == "held-out"), seed])
    ground = background_kind or background_word(random, split)
    count = count or int(random.choice([1, 2, 3], p=[0.45, 0.45, 0.1]))
    image = background(ground, SIZE, random)
    masks: list[np.ndarray] = []
    areas: list[float] = []
    words = _pick_words(count, random)
    for color, shape in words:
        image, mask = _draw(image, color, shape, random, masks)
        masks = [m * (1 - mask) for m in masks] + [mask]
        areas.append(float(mask.sum()))
    things = tuple(
        SceneObject(shape, color, mask.astype(np.float32), _box(mask), hidden=1 - float(mask.sum()) / area)
        for (color, shape), mask, area in zip(words, masks, areas, strict=True)
    )
    return Scene(np.clip(image, 0, 1).astype(np.float32), things, ground)


def restyle_object(source: Scene, index: int, style: str) -> Scene:
    """The exact truth of "make that object STYLE": the filtered picture inside the object's mask."""
    thing = source.objects[index]
    mask = thing.mask[..., None]
    image = source.image * (1 - mask) + apply_style(source.image, style) * mask
    things = tuple(replace(t, style=style) if i == index else t for i, t in enumerate(source.objects))
    return Scene(image, things, source.background)


def restyle_whole(source: Scene, style: str) -> Scene:
    """The exact truth of "make everything STYLE"."""
    return Scene(apply_style(source.image, style), source.objects, source.background, style)


def vocabulary() -> list[str]:
    """Every word that captions and the pack's own prompts use, in a fixed order."""
    words = [*SHAPES, *COLORS, *" ".join(STYLES).split(), *PROCEDURAL, *TRAIN_PHOTOS, *HELD_OUT_PHOTOS]
    words += [
        "a",
        "an",
        "the",
        "in",
        "on",
        "of",
        "and",
        "with",
        "style",
        "background",
        "picture",
        "photo",
        "make",
        "like",
        "shape",
        "object",
        "none",
        "plain",
    ]
    return list(dict.fromkeys(words))
