"""Settings of R2R's sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...engine.errors import wrong_input
from ...engine.settings.checks import check_settings
from ...engine.settings.setting import setting

Sampler = Literal["euler ancestral", "euler"]
SAMPLERS = ("euler ancestral", "euler")
SMALLEST_TILE = 128


@dataclass(frozen=True)
class R2RSettings:
    """How R2R harmonises; the defaults are those of its published script, except that the picture keeps its shape.

    controller: False samples with the U-Net alone; clear: False decodes without the composite's detail (the plain
    autoencoder). Both are there to measure what they are worth.
    """

    steps: int = setting(10, low=1, high=1000, help="Sampling steps; 10 as published.")
    sampler: Sampler = setting(
        "euler ancestral",
        choices=SAMPLERS,
        help="'euler ancestral' as published; 'euler' puts no new noise in, so the seed matters less.",
    )
    resolution: int = setting(
        1024,
        low=0,
        high=8192,
        step=64,
        unit="pixels",
        help="The picture is worked on at about this many pixels squared and enlarged back; 0 takes its own size.",
    )
    square: bool = setting(
        False, advanced=True, help="Squash the picture into a square, as the published script does, whatever its shape."
    )
    tile: int = setting(
        0,
        low=0,
        high=8192,
        step=64,
        unit="pixels",
        advanced=True,
        help="Side of the autoencoder's tiles; 0 takes the whole picture while that needs less than about 4 GB. "
        "Halved where memory runs out.",
    )
    controller: bool = True
    clear: bool = True

    def __post_init__(self) -> None:
        check_settings(self)
        if self.tile and (self.tile < SMALLEST_TILE or self.tile % 64):
            accepts = f"0, or a multiple of 64, {SMALLEST_TILE} or more"
            raise wrong_input("tile", self.tile, accepts, "Tiles meet on the networks' grid of 64 pixels.")
        if self.square and not self.resolution:
            raise wrong_input("resolution", 0, "64 or more with 'square'", "Give the square's side.")
        if 0 < self.resolution < 64:
            raise wrong_input("resolution", self.resolution, "0, or 64 or more", "The networks need 64 pixels.")
