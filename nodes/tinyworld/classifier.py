"""The tiny classifier: shape, colour and style of the object in the middle of a picture.

It is trained by itself on exact labels and shares nothing with the tiny CLIP, so it can judge what the tiny CLIP
had a part in. Its feature maps stand in for the large networks of LPIPS, FID and the like; numbers made with it carry
`-tiny` in their names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .bundled import filled
from .image_tower import ImageTower
from .networks import TEXT_WIDTH
from .styles import STYLES, UNSTYLED
from .world import COLORS, SHAPES

LABELS: dict[str, tuple[str, ...]] = {
    "shape": tuple(SHAPES),
    "color": tuple(COLORS),
    "style": (*STYLES, UNSTYLED),
}


class Classifier(nn.Module):
    """Images `[B,3,128,128]` in 0..1 -> logits per property, `{"shape": [B,8], "color": [B,8], "style": [B,9]}`."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = ImageTower(TEXT_WIDTH)
        self.heads = nn.ModuleDict({name: nn.Linear(TEXT_WIDTH, len(words)) for name, words in LABELS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = self.tower(x)
        return {name: head(embedding) for name, head in self.heads.items()}

    def features(self, x: Tensor) -> list[Tensor]:
        """Feature maps of the four stages, `[B,48,H/4,W/4]` to `[B,192,H/32,W/32]`."""
        return self.tower.features(x)

    @torch.no_grad()
    def read(self, images: Tensor) -> list[dict[str, str]]:
        """The most likely shape, colour and style of each picture of `[B,3,128,128]`."""
        best = {name: logits.argmax(1).tolist() for name, logits in self(images).items()}
        return [{name: LABELS[name][best[name][row]] for name in LABELS} for row in range(len(images))]


def load_classifier() -> Classifier:
    """The shipped classifier, in evaluation mode, float32, on the CPU."""
    return filled(Classifier, "classifier")


def load_photo_classifier() -> Classifier:
    """The one that learnt cut-outs of photographs as well, for their styles; as `load_classifier`."""
    return filled(Classifier, "photo_classifier")
