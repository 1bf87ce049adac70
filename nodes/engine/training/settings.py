"""How an expert is trained, whatever it is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import wrong_input
from ..settings.checks import check_settings
from ..settings.setting import seed_setting, setting

LAYERS = ("all", "attention")


@dataclass(frozen=True)
class TrainSettings:
    """How a style expert is trained.

    steps: of the optimiser, each on `batch` samples, taken in `accumulate` parts (less memory, same result up to
    rounding); rate: learning rate after `warmup` steps, falling as a cosine from there; rank, layers: of the expert
    (`init_lora.LAYERS`); seed: of everything random; preview_every: steps between two pictures;
    checkpointing: activations are computed twice, to save memory.
    """

    steps: int = setting(
        1000,
        low=1,
        high=100000,
        help="Training steps. More learns the style better, until pictures are learnt by heart; SD1.5 500 to 2000.",
    )
    batch: int = setting(
        4,
        name="batch_size",
        low=1,
        high=64,
        help="Pictures per step. When memory runs out, fewer are taken at once; the result stays the same.",
    )
    accumulate: int = setting(
        1,
        low=1,
        high=64,
        advanced=True,
        help="Take each batch in so many parts, one after the other: less memory, the same result.",
    )
    rate: float = setting(
        1e-4,
        name="learning_rate",
        low=1e-7,
        high=1,
        step=1e-6,
        round=1e-7,
        help="How far each step goes. Higher is faster and less stable. SD1.5 1e-4, tiny world 1e-3.",
    )
    rank: int = setting(8, low=1, high=256, help="Capacity of the expert and size of its file; 4 to 32.")
    layers: str = setting(
        "all",
        choices=LAYERS,
        advanced=True,
        help="Which layers learn: attention only is smaller; all learns texture better.",
    )
    seed: int = seed_setting("Seed of the weights, crops, noise and order: the same seed gives the same expert.")
    warmup: int = 20
    preview_every: int = setting(
        100, low=1, high=100000, advanced=True, help="Steps between two previews; the state is saved at each."
    )
    checkpointing: bool = setting(
        False,
        advanced=True,
        optional=True,
        help="Compute activations twice instead of keeping them: much less memory, somewhat slower, the same result.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.accumulate > self.batch:
            accepts = f"at most the batch, {self.batch}"
            raise wrong_input("accumulate", self.accumulate, accepts, "The batch is what is cut into parts.")
        if self.warmup < 0:
            raise wrong_input("warmup", self.warmup, "0 or more", "Correct it.")
