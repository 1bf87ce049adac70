"""Settings of editing by words."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting


@dataclass(frozen=True)
class WordsEditSettings:
    """How a picture is drawn anew.

    steps: of the sampler, for each thing that is asked for; cfg: guidance by the empty instruction, which leaves a
    picture as it is; 1 is off.
    """

    seed: int = seed_setting("Seed of the noise that the picture is drawn from.")
    steps: int = setting(12, low=1, high=200, help="Sampling steps for each thing that is asked for.")
    cfg: float = setting(
        1.0,
        low=0,
        high=20,
        step=0.1,
        help="How much further to go than the instruction alone does, away from the picture as it is; 1 is off, and "
        "faster.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
