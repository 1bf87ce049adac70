"""Pictures the measuring networks learn from: scenes with styles in them, sharp and soft."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from ..styles import STYLES, apply_style
from ..world import Scene, restyle_object

# Pixel art and posterised differ in their edges only, so that they are drawn more often.
STYLES_TO_TELL_APART = (*STYLES, *("pixel art", "posterised") * 2)


def styled_scene(plain: Scene, random: np.random.Generator) -> tuple[np.ndarray, list[str | None], str | None]:
    """Picture, style per object and style of the whole: unstyled, wholly styled, or one object styled."""
    kind, style = random.random(), str(random.choice(STYLES_TO_TELL_APART))
    none: list[str | None] = [None] * len(plain.objects)
    if kind < 0.35:
        return plain.image, none, None
    if kind < 0.7:
        return apply_style(plain.image, style), none, style
    index = int(random.integers(len(plain.objects)))
    return restyle_object(plain, index, style).image, [style if i == index else None for i in range(len(none))], None


def soften(images: Tensor, side: int) -> Tensor:
    """Images `[B,3,H,W]` made smaller, to `side` px, and back: decoded latents have lost such detail too."""
    small = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, images.shape[-2:], mode="bilinear")
