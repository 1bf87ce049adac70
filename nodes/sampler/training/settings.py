"""Settings of the training of an expert with supervised attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...engine.errors import wrong_input
from ...engine.settings.setting import setting
from ...engine.training.settings import LAYERS, TrainSettings
from ..settings import KINDS, WORDS

if TYPE_CHECKING:
    from ...engine.attention.supervision import LossSettings

PRESETS = ("own", "published", "paper")
OPTIMIZERS = ("adamw", "adamw8bit")
WATCHED = ("useful", "all")
SOURCES = ("hidden", "shown")


@dataclass(frozen=True)
class ExpertTrainSettings(TrainSettings):
    """How an expert is taught. The defaults of rank and layers are the published ones.

    preset: where the losses come from, the fields below ("own"), the published code ("published") or the paper's text
    ("paper"), which have no use for them; attention, focus, cover, tau, kappa, band: see
    `engine.attention.supervision.LossSettings`; words: which of those of a thing are supervised; watched: in which
    attentions; background: weight of the noise error outside the things, where the picture is to stay as it was;
    optimizer: AdamW in 32 or in 8 bits; source: whether the network sees the picture before ("shown"), as tokens after
    its own with positions of their own (FLUX.1 Kontext), so that the expert learns to edit it; validation: so many
    pairs, drawn by the seed, are held out of training.
    """

    rank: int = setting(4, low=1, high=256, help="Capacity of the expert and size of its file; 4 to 32.")
    layers: str = setting(
        "attention",
        choices=LAYERS,
        advanced=True,
        help="Which layers learn: attention, as published; all learns texture better.",
    )
    preset: str = setting(
        "own",
        choices=PRESETS,
        help="own: the losses below, which have a signal for every style. published: those of the paper's code, "
        "which have none for a single style. paper: those of its text, one mean map per phrase, with next to no "
        "gradient. Both are for comparison.",
    )
    attention: str = setting(
        "logodds",
        choices=KINDS,
        advanced=True,
        help="The supervised quantity: log-odds against the other words, the share of the words' attention (text), "
        "of all attention (joint), or of the supervised tokens alone (selected).",
    )
    focus: float = setting(0.1, low=0, high=100, step=0.01, help="Weight of the Focus loss; 0 leaves it out.")
    cover: float = setting(0.1, low=0, high=100, step=0.01, help="Weight of the Cover loss; 0 leaves it out.")
    tau: float = setting(0.5, low=0.01, high=10, step=0.05, advanced=True, help="Temperature of the Focus loss.")
    kappa: float = setting(2.0, low=0.01, high=20, step=0.1, advanced=True, help="Steepness of the Cover loss.")
    words: str = setting(
        "style and thing",
        choices=WORDS,
        advanced=True,
        help="Which words are held to the mask: those of the style, those of the thing, or both alike.",
    )
    watched: str = setting(
        "useful",
        choices=WATCHED,
        advanced=True,
        help="useful: attentions whose maps say best what goes where; all: every one, as published.",
    )
    background: float = setting(
        1.0,
        low=0,
        high=100,
        step=0.1,
        help="Weight of the picture's error outside the things; above 1 it is held harder, 0 says nothing of it.",
    )
    optimizer: str = setting(
        "adamw",
        choices=OPTIMIZERS,
        advanced=True,
        help="adamw8bit takes a quarter of the memory; it needs the package bitsandbytes.",
    )
    band: float = setting(
        0.0,
        low=0,
        high=0.45,
        step=0.05,
        advanced=True,
        optional=True,
        help="Leaves the masks' soft border out of the losses: places within so much of a half. 0 leaves nothing out; "
        "0.25 suits masks that are not exact.",
    )
    source: str = setting(
        "hidden",
        choices=SOURCES,
        optional=True,
        help="shown: the model sees the picture before beside the noise, as FLUX.1 Kontext does, and the expert learns "
        "to edit it. hidden: words alone, for every other model.",
    )
    validation: int = setting(
        0,
        low=0,
        high=10000,
        optional=True,
        help="So many pairs are held out of training, chosen by the seed: at every preview the loss on them is "
        "measured, and some are drawn. It rises again when pictures are learnt by heart.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        changed = [name for name in _LOSSES if getattr(self, name) != _LOSSES[name]]
        if self.preset != "own" and changed:
            accepts = f"their defaults with the {self.preset} losses"
            raise wrong_input(", ".join(changed), "other values", accepts, "Choose the preset 'own' to set them.")

    @property
    def losses(self) -> LossSettings:
        """The losses; log-odds are compared with each map's median, probabilities stretched by their highest value."""
        from ...engine.attention.supervision import PAPER, PUBLISHED, LossSettings

        if self.preset != "own":
            return PUBLISHED if self.preset == "published" else PAPER
        odds = self.attention == "logodds"
        return LossSettings(
            self.attention, self.focus, self.cover, self.tau, self.kappa, center="median", peak=not odds, band=self.band
        )  # fmt: skip

    @property
    def supervised(self) -> bool:
        """Whether attention is looked at, at all."""
        return self.losses.focus > 0 or self.losses.cover > 0

    @property
    def supervised_words(self) -> str:
        return self.words if self.preset == "own" else "style"

    @property
    def all_layers(self) -> bool:
        return self.preset != "own" or self.watched == "all"


_LOSSES = {
    "attention": "logodds", "focus": 0.1, "cover": 0.1, "tau": 0.5, "kappa": 2.0, "words": "style and thing",
    "watched": "useful", "band": 0.0,
}  # fmt: skip
