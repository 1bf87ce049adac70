"""The networks that measure, as one value that a node hands on."""

from __future__ import annotations

from dataclasses import dataclass

from ..text_image import TextImageModel
from .perceptual import PerceptualDistance


@dataclass(frozen=True)
class MetricNetworks:
    """text_image: the pair of towers for RSM and CLIP scores; distance: for LPIPS."""

    text_image: TextImageModel
    distance: PerceptualDistance
