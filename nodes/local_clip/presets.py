"""What LEAST's paper and its published code do differently, each point a named option; and what we take.

Source: LEAST, arXiv:2405.16330, section 3.2, the authors' notebook, and CLIPstyler, which it builds on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ContentDistance = Literal["mean square", "norm"]


@dataclass(frozen=True)
class Preset:
    """One reading of the method.

    direction_weight, patch_weight, content_weight, variation_weight: of the four terms. threshold: a patch whose loss
    is below is left alone (0: none is). distortion: of the patches' random perspective (0: none).
    reduction: patches' losses are averaged ("mean") or summed ("sum"). patch_reference: a patch is compared with the
    content's patch at the "same place" or with the "picture". patch_room: of a region smaller than a patch, the patch
    holds it and reaches beyond ("grow"), or becomes smaller ("shrink"). patch_weighting: every patch counts
    "alike", or by how much of it the mask covers ("coverage"). content_distance, content_rectified: norm or mean square
    of feature maps, before or after their rectification. content_scale: the content as it is ("once"), or, as the
    published code has it, ImageNet-normalised before everything else ("twice"). schedule: learning rate "constant" or
    "halving" every hundred iterations. contrast: of the finished picture. mask: "soft" or cut at 0.5 ("binary"), in the
    losses; edge: the composite's, "soft" with a seam or "hard". surroundings: "black" or "grey" outside the mask in
    CLIP's view. view: of the whole "picture" or of the region's "box". frame: worked on is a window around the "region"
    at its own resolution, the whole "picture", or that squashed to a "square". enlarge: the "picture" that was made
    small comes back, or the "difference" that was made to it, which keeps its fine detail. style_text: "as given", or
    in small letters and without the letters "style" ("cleaned").
    """

    name: str
    direction_weight: float = 500.0
    patch_weight: float = 9000.0
    content_weight: float = 150.0
    variation_weight: float = 2e-3
    threshold: float = 0.7
    distortion: float = 0.5
    reduction: Literal["mean", "sum"] = "mean"
    patch_reference: Literal["same place", "picture"] = "same place"
    patch_room: Literal["grow", "shrink"] = "shrink"
    patch_weighting: Literal["alike", "coverage"] = "coverage"
    content_distance: ContentDistance = "mean square"
    content_rectified: bool = True
    content_scale: Literal["once", "twice"] = "once"
    schedule: Literal["constant", "halving"] = "halving"
    contrast: float = 1.0
    mask: Literal["soft", "binary"] = "soft"
    edge: Literal["soft", "hard"] = "soft"
    surroundings: Literal["black", "grey"] = "grey"
    view: Literal["picture", "box"] = "box"
    frame: Literal["region", "picture", "square"] = "region"
    enlarge: Literal["picture", "difference"] = "difference"
    style_text: Literal["as given", "cleaned"] = "as given"


IMPROVED = Preset("improved")
PAPER = Preset(
    "paper",
    patch_weight=1e3,
    threshold=0.0,
    distortion=0.0,
    reduction="sum",
    patch_weighting="alike",
    content_distance="norm",
    content_rectified=False,
    schedule="constant",
    mask="binary",
    edge="hard",
    surroundings="black",
    view="picture",
    frame="picture",
    enlarge="picture",
)
REFERENCE = Preset(
    "reference",
    patch_weight=1e4,
    patch_reference="picture",
    patch_room="grow",
    patch_weighting="alike",
    content_scale="twice",
    contrast=1.5,
    edge="hard",
    surroundings="black",
    view="picture",
    frame="square",
    enlarge="picture",
    style_text="cleaned",
)
# The tiny CLIP is pleased by changes that nobody sees: at the published threshold hardly any patch is pushed.
TINY = replace(IMPROVED, name="improved-tiny", threshold=0.1)
PRESETS = {preset.name: preset for preset in (IMPROVED, REFERENCE, PAPER, TINY)}
