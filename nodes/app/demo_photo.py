"""The demo's second row: a photograph, the thing in a box outlined, and two styles in it at full size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.host.base import Host
from ..engine.io.heatmap import overlay
from ..grounding.language.bare_style import parse_for_region
from ..metrics.pixels import equal_outside
from ..tinyworld.backgrounds import HELD_OUT_PHOTOS, photograph
from ..tinyworld.bundled import expert_files
from .edit import EditResult, EditSettings, edit
from .ground_instruction import Where, ground_instruction
from .local_model import TINY, open_model
from .painters.registry import PainterContext, painter_named

WORD, BOX = "cat", (30, 0, 400, 299)  # of scikit-image, 451 x 300 pixels, which nobody trained on; its head
STYLES = ("mosaic", "halftone")


@dataclass(frozen=True)
class PhotoResult:
    """photo `[1,3,H,W]`; mask `[H,W]`, the outlined region; edited: by style; numbers: for metrics.json."""

    photo: Tensor
    mask: Tensor
    edited: dict[str, EditResult]
    numbers: dict[str, Any]

    @property
    def panels(self) -> dict[str, Tensor]:
        """The pictures of the row by name."""
        shown = {"photograph": self.photo, "outlined in a box": overlay(self.photo, self.mask)}
        return shown | {f"{style} in tiles": result.image for style, result in self.edited.items()}


def run_photo(seed: int, host: Host) -> PhotoResult:
    """Outline the cat's head in its box by GrabCut (the whole box without OpenCV), and paint it twice."""
    photo = torch.from_numpy(photograph(HELD_OUT_PHOTOS[WORD])).permute(2, 0, 1)[None].contiguous()
    model, settings, edited = open_model(TINY, host, styles=STYLES), EditSettings(seed=seed), {}
    with model.predictor.loaded():
        painter = painter_named("expert", PainterContext(model, settings))
        for style in STYLES:
            found = ground_instruction(
                model.predictor, photo, parse_for_region(style, list(expert_files())), Where(box=BOX)
            )
            edited[style] = edit(photo, found.regions, painter, settings)
    numbers = {
        "photograph": WORD,
        "box": list(BOX),
        "outline": found.said.removeprefix("outline: "),
        "styles": list(STYLES),
        "background_equal": all(equal_outside(one.image, photo, one.mask[0]) for one in edited.values()),
        "region_changed": [_changed(one.image, photo, one.mask[0]) for one in edited.values()],
    }
    return PhotoResult(photo, found.regions.items[0].mask, edited, numbers)


def _changed(image: Tensor, photo: Tensor, mask: Tensor) -> float:
    """Mean change of a pixel of the region, of 1."""
    inside = (mask > 0.5).expand_as(photo)
    return round(float(np.abs((image - photo)[inside].numpy()).mean()), 4)
