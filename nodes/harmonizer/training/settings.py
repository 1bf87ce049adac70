"""Settings of R2R's training stages; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...engine.errors import wrong_input
from ...engine.settings.checks import check_settings
from ...engine.settings.setting import seed_setting, setting

Stage = Literal["vae", "unet", "controller"]
STAGES = ("vae", "unet", "controller")
RESOLUTIONS = {"vae": 256, "unet": 512, "controller": 512}
ACCUMULATED = {"vae": 4, "unet": 8, "controller": 8}
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class R2RTrainSettings:
    """How one stage is trained. resolution, accumulate: None for what is usual in the stage; steps: of the optimiser,
    None: `epochs` passes over the data."""

    steps: int | None = setting(
        None, none=0, low=0, high=10**8, help="Steps of the optimiser; 0 takes them from the epochs."
    )
    epochs: int = setting(5, low=1, high=10000, help="Passes over the data, where no steps are given.")
    batch: int = setting(4, low=1, high=1024, help="Pictures at once.")
    accumulate: int | None = setting(
        None, none=0, low=0, high=1024, help="Batches per step; 0: 4 for the Clear-VAE, 8 for the others."
    )
    rate: float = setting(1e-5, low=1e-8, high=1, step=1e-5, round=False, help="Learning rate.")
    resolution: int | None = setting(
        None,
        none=0,
        low=0,
        high=4096,
        step=64,
        unit="pixels",
        help="Side of the crops; 0: 256 for the Clear-VAE, else 512.",
    )
    seed: int = seed_setting("Seed of new weights, crops, timesteps and noise.")
    preview_every: int = setting(500, low=1, high=10**7, help="Steps between two grids of the validation pictures.")
    precision: str = setting(
        "float32", choices=PRECISIONS, help="Numbers that the passes compute in; weights stay float32."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.resolution and (self.resolution < 64 or self.resolution % 64):
            accepts = "0, or a multiple of 64, 64 or more"
            raise wrong_input("resolution", self.resolution, accepts, "The networks halve it six times.")

    def side(self, stage: str) -> int:
        """Of the crops, in pixels."""
        return self.resolution or RESOLUTIONS[stage]

    def batches(self, stage: str) -> int:
        """Per step."""
        return self.accumulate or ACCUMULATED[stage]

    def total(self, stage: str, pictures: int, workers: int = 1) -> int:
        """Steps of a whole training."""
        per_step = self.batch * self.batches(stage) * workers
        return self.steps or max(1, -(-self.epochs * pictures // per_step))
