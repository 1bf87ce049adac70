"""Settings of the router: an expert's strength, restyling, routing, training an expert, training a gate."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.errors import wrong_input
from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting

DETAILS = ("auto", "native", "full", "both")


@dataclass(frozen=True)
class ExpertSettings:
    """How an expert acts where it is attached or routed to."""

    strength: float = setting(
        1.0,
        low=-4,
        high=4,
        step=0.05,
        help="How strongly the style acts: 0 is off (the plain model, bit for bit), 1 as trained, negative pushes away "
        "from it.",
    )


@dataclass(frozen=True)
class RestyleSettings:
    """How a region is redrawn; the defaults are for SD1.5.

    strength: share of the noise schedule that is redrawn; 0 stands for what the style itself prefers, where the caller
    knows it; steps: sampler steps; cfg: guidance (1: off); seed: of the noise; margin: context around the region, as a
    share of its size; feather: seam in pixels (negative: inwards); largest_scale: how far a small region may be
    enlarged (1: never); detail: at which size a large region is worked on; inverted: in tiles, how much of the noise to
    start from is the picture's own, found by inverting the sampler (0: none, all of it is drawn); weight: in tiles, how
    many times as strongly as their gates say the experts act.
    """

    strength: float = setting(
        0.6,
        low=0,
        high=1,
        step=0.01,
        help="How much is redrawn: low keeps the drawing, 1 draws anew. SD1.5 about 0.6, tiny world 0.3.",
    )
    steps: int = setting(20, low=1, high=1000, help="Sampling steps. SD1.5 about 20, tiny world 6.")
    cfg: float = setting(
        7.0,
        low=0,
        high=100,
        step=0.1,
        help="Guidance. 1 is off and half the work (right for the tiny world's experts); SD1.5 about 7.",
    )
    seed: int = seed_setting("Seed of the noise.")
    margin: float = setting(
        0.25, low=0, high=4, step=0.05, advanced=True, help="Context around the region, as a share of its size."
    )
    feather: int = setting(
        2,
        low=-256,
        high=256,
        unit="pixels",
        advanced=True,
        help="Seam in pixels; positive grows outwards, negative inwards, so that nothing outside the mask changes.",
    )
    largest_scale: float = setting(
        1.0,
        name="enlarge",
        low=0.05,
        high=64,
        step=0.05,
        advanced=True,
        help="How far a small region may be enlarged before it is redrawn: 1 never, 4 up to four times. More detail, "
        "coarser texture scale.",
    )
    detail: str = setting(
        "auto",
        choices=DETAILS,
        optional=True,
        help="native: one crop at the model's size, enlarged back. full: overlapping tiles at the picture's own size. "
        "both: first the one, then the other. auto: tiles where a crop would be enlarged over 1.5 times.",
    )

    inverted: float = 0.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self)
        if not 0 <= self.inverted <= 1:
            raise wrong_input("inverted", self.inverted, "0 to 1", "1 keeps most of the picture.")
        if not 0 < self.weight <= 4:
            raise wrong_input("weight", self.weight, "more than 0, at most 4", "1 is as the experts were trained.")


@dataclass(frozen=True)
class RegionRouting:
    """Routing by regions. edge: soft edge of the masks in pixels of the picture."""

    edge: int = setting(
        4,
        low=-256,
        high=256,
        unit="pixels",
        help="Soft edge of the masks in pixels of the picture: above 0 the style fades outwards, below 0 inwards, 0 "
        "leaves the masks as they are. Half a latent cell (4) or more avoids plain rims.",
    )


@dataclass(frozen=True)
class NearestStyles:
    """Routing by meaning: experts that share at most, temperature of their shares, least cosine similarity."""

    top_k: int = setting(
        2,
        low=1,
        high=64,
        advanced=True,
        help="For nearest styles: how many experts share at most. 1 takes the nearest alone.",
    )
    temperature: float = setting(
        0.05,
        low=0.001,
        high=10,
        step=0.005,
        round=False,
        advanced=True,
        help="For nearest styles: lower gives the nearest more, higher mixes more evenly.",
    )
    floor: float = setting(
        0.5,
        low=-1,
        high=1,
        step=0.01,
        advanced=True,
        help="For nearest styles: experts whose similarity (cosine, -1 to 1) is below this stay off. Higher is "
        "stricter; with none left the prompt alone makes the style.",
    )


@dataclass(frozen=True)
class NoiseRange:
    """From `start` to `end` of the schedule, both 0..1. RegionStyleError where end is not after start."""

    start: float = setting(
        0.0,
        low=0,
        high=1,
        step=0.01,
        advanced=True,
        help="From which share of the denoising on the experts act: 0 the first step. Later keeps more layout.",
    )
    end: float = setting(
        1.0,
        low=0,
        high=1,
        step=0.01,
        advanced=True,
        help="Until which share of the denoising they act: 1 the last step. Earlier gives less of the texture.",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            got = f"{self.start} to {self.end}"
            raise wrong_input("noise range", got, "0 <= start < end <= 1", "0 to 1 lets the experts act all the time.")

    @property
    def whole(self) -> bool:
        return self.start == 0 and self.end == 1

    def covers(self, t: float) -> bool:
        """Whether experts act at the noise predictor's t, 1 (noise) to 0 (clean)."""
        return self.start <= 1 - t <= self.end


@dataclass(frozen=True)
class CropSettings:
    """Which part of a picture is trained on. resolution: side in pixels (None: the model's own); crop: smallest crop,
    as a share of the shorter side; flip: whether pictures are used mirrored too."""

    resolution: int | None = setting(
        None,
        none=0,
        low=0,
        high=4096,
        step=8,
        unit="pixels",
        advanced=True,
        help="Side of the square training pictures in pixels; 0: the model's own. Lower is faster.",
    )
    crop: float = setting(
        1.0,
        low=0.1,
        high=1,
        step=0.05,
        advanced=True,
        help="Smallest crop, as a share of a picture's shorter side. 1 keeps the scale of strokes and texture.",
    )
    flip: bool = setting(
        True,
        advanced=True,
        help="Use mirrored pictures too. Off for styles with a left and a right, such as lettering.",
    )


@dataclass(frozen=True)
class GateSettings:
    """How a learnt gate is trained: steps of AdamW at a rate, on batches of examples; balance: the load-balance term's
    coefficient; top_k: how many experts the gate lets act at most."""

    steps: int = setting(600, low=1, high=100000, help="Training steps.")
    batch: int = setting(64, low=1, high=4096, help="Examples per step.")
    rate: float = setting(2e-3, name="learning_rate", low=1e-7, high=1, help="Learning rate.")
    balance: float = setting(0.1, low=0, high=100, help="Weight of the load-balance term, which keeps experts in use.")
    seed: int = seed_setting("Seed of the weights and the order of the examples.")
    top_k: int = setting(2, low=1, high=64, help="How many experts act at most.")

    def __post_init__(self) -> None:
        check_settings(self)
