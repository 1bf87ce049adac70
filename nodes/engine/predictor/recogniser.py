"""Recogniser: whatever can say how well words fit what a crop of a picture shows, a CLIP-class model for example.

A denoiser's attention says where a phrase would be if it were there, and some place always answers best. A predictor
that brings a recogniser along (`NoisePredictor.recogniser`) lets a finder ask the second question.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..region.region import Box

# Under this key a ComfyUI CLIP's patcher may carry one (`ModelPatcher.set_attachments`).
ATTACHMENT = "regionstyle.recogniser"


class Recogniser(Protocol):
    """least: the probability from which a thing counts as being there, measured for this recogniser."""

    least: float

    def unknown_words(self, phrase: str) -> list[str]:
        """The words of a phrase it was never taught, in their order; what it says about those means nothing."""

    def vocabulary(self) -> str:
        """The words for things it does know, for a message."""

    def probability(self, image: Tensor, box: Box, phrase: str) -> float:
        """How likely the box (x0, y0, x1, y1 in pixels) of an image `[1,3,H,W]` in 0..1 shows what the phrase says,
        0..1, against everything else it could name."""

    def describe(self, image: Tensor, box: Box) -> str:
        """The phrase it would name the box's content by."""

    def completions(self, image: Tensor, phrase: str) -> list[str]:
        """Fuller phrases that the phrase could stand for in an image `[1,3,H,W]`, the likeliest first; empty when it
        leaves nothing open. Attention finds a thing the better the more is said about it."""
