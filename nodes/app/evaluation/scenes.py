"""Pictures of the tiny world, as the demo, the report and the evaluation show them."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...tinyworld.world import Scene, scene


def demo_scene(number: int) -> Scene:
    """A picture of the demo: a held-out photograph with one or two named objects in it; number: 0 or more."""
    if number < 0:
        raise wrong_input("scene", number, "a whole number, 0 or more", "Leave it out for the demo's own.")
    return scene(number, split="held-out", count=2, background_kind=("cat", "coffee")[number % 2])


def as_image(scene: Scene) -> Tensor:
    """A scene's picture `[1,3,H,W]`."""
    return torch.from_numpy(scene.image.copy()).permute(2, 0, 1)[None]
