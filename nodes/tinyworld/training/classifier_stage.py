"""Stage `classifier`: shape, colour and style of one object, by cross-entropy on exact labels.

Pictures are crops around one object, or a whole scene that has one object only; the style is that of the object.
Generated pictures are judged whole, since nobody knows where their object is; so that is learnt as much as crops are.

Stage `photo-classifier`: the same, gone on with cut-outs of photographs. Large photographs are judged in those, which
show parts of things or none: they have a style only, and begin anywhere in the style's pattern. It is a network of its
own, so that what is measured with the first stays comparable.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..classifier import LABELS, UNSTYLED, Classifier
from ..crops import crop_object
from ..styles import apply_style
from ..world import SIZE
from .photo_tiles import photo_tile
from .pictures import STYLES_TO_TELL_APART, soften, styled_scene
from .pool import Pool, lone_objects

WHOLE = 0.4  # share of scenes that are not cropped
PHOTOS = 0.45  # share of pictures that are cut-outs of photographs, in `photo-classifier`
BORDER = 24  # pixels around a cut-out: its pattern begins anywhere, its filter sees what lies beside it
UNKNOWN = -100  # no label: what `cross_entropy` leaves out


def draw_labelled(pool: Pool, lone: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """A picture `[128,128,3]` in 0..1 and the number of its shape, colour and style in `LABELS`."""
    whole = random.random() < WHOLE
    drawn_scene = pool.scene(int(random.choice(lone) if whole else random.integers(len(pool))))
    image, styles, everywhere = styled_scene(drawn_scene, random)
    index = int(random.integers(len(drawn_scene.objects)))
    thing, style = drawn_scene.objects[index], everywhere or styles[index] or UNSTYLED
    if len(drawn_scene.objects) > 1 or not whole:
        image = crop_object(image, thing.box, float(random.uniform(0, 0.8)))
    image = image[:, ::-1] if random.random() < 0.5 else image
    words = {"shape": thing.shape, "color": thing.color, "style": style}
    return np.ascontiguousarray(image), tuple(LABELS[name].index(words[name]) for name in LABELS)


def draw_cut_out(random: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
    """As `draw_labelled`, of a photograph: shape and colour are `UNKNOWN`."""
    styles = (*STYLES_TO_TELL_APART, UNSTYLED, UNSTYLED)
    style = styles[int(random.integers(len(styles)))]
    tile = photo_tile(random, SIZE + BORDER)
    tile = tile if style == UNSTYLED else apply_style(tile, style)
    top, left = random.integers(4, BORDER - 3, 2)
    known = {"style": LABELS["style"].index(style)}
    return tile[top : top + SIZE, left : left + SIZE], tuple(known.get(name, UNKNOWN) for name in LABELS)


class ClassifierLoss:
    """Draws batches and scores them; `self(step)` is what `Trainer` calls."""

    def __init__(self, network: Classifier, pool: Pool, size: int = 48, seed: int = 5, photos: float = 0.0) -> None:
        """photos: share of pictures that are cut-outs of photographs."""
        self.network, self.pool, self.size, self.seed, self.photos = network, pool, size, seed, photos
        self.lone = np.array(lone_objects(pool.facts) or range(len(pool)))

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        drawn = [self._draw(random) for _ in range(self.size)]
        device = next(self.network.parameters()).device
        images = torch.from_numpy(np.stack([image for image, _ in drawn])).permute(0, 3, 1, 2).to(device)
        images = torch.cat([soften(images[: self.size // 3], int(random.integers(56, 128))), images[self.size // 3 :]])
        targets = torch.tensor([labels for _, labels in drawn], device=device)
        logits = self.network(images)
        parts = {name: _loss(logits[name], targets[:, i]) for i, name in enumerate(LABELS)}
        return torch.stack(list(parts.values())).sum(), {name: float(part.detach()) for name, part in parts.items()}

    def _draw(self, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, ...]]:
        if self.photos and random.random() < self.photos:
            return draw_cut_out(random)
        return draw_labelled(self.pool, self.lone, random)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the pictures that have a label."""
    return F.cross_entropy(logits, targets, ignore_index=UNKNOWN, reduction="sum") / (targets != UNKNOWN).sum().clamp(1)
