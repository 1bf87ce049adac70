"""The settings of harmonisation, each declared once."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting

MODES = ("import", "mixed", "average")
METHODS = {"reinhard": "reinhard", "mkl": "mkl", "histogram": "histogram"}  # statistics/methods.py


@dataclass(frozen=True)
class SeamSettings:
    """How a harmonised foreground goes over into the rest."""

    seam: float = setting(
        0.0, low=0, high=256, step=1, unit="pixels",
        help="Over how many pixels the change fades in, from the mask's border inwards. 0: as the mask is.",
    )  # fmt: skip
    seed: int = seed_setting("Seed of a harmoniser that draws at random (R2R); the bundled one does not.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class PlaceSettings:
    """Where a foreground stands in a background."""

    x: int = setting(0, low=-16384, high=16384, help="Column of the foreground's left edge in the background.")
    y: int = setting(0, low=-16384, high=16384, help="Row of the foreground's upper edge in the background.")
    scale: float = setting(1.0, low=0.01, high=100, step=0.05, help="How much larger the foreground gets.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class BlendSettings:
    """Poisson blending."""

    mode: str = setting(
        "import", choices=MODES,
        help="Whose detail is kept inside: the foreground's (import), the stronger of both (mixed), their mean "
        "(average).",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class MatchSettings:
    """Matching of colour statistics."""

    method: str = setting(
        "reinhard", choices=tuple(METHODS),
        help="reinhard: mean and spread in Lab. mkl: mean and covariance. histogram: the whole distribution.",
    )  # fmt: skip
    strength: float = setting(1.0, low=0, high=1, step=0.05, help="0 changes nothing, 1 matches the statistics.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class RandomPoissonSettings:
    """Random Poisson Blending. strength: the paper's alpha (0.75 in the authors' prototype)."""

    strength: float = setting(
        0.75, low=0, high=1, step=0.05, help="How much of the blended foreground; the rest is the untouched one."
    )
    variants: int = setting(1, low=1, high=64, help="How many composites of each picture, each with another donor.")
    seed: int = seed_setting("Seed of donors and places.")

    def __post_init__(self) -> None:
        check_settings(self)
