"""Settings of grounding: looking with attention, detecting boxes, segmenting, refining masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting

BEST, SINGLE = "best of three", "single"
OUTLINES = ("box", "grabcut", "sam")
MASK_CHOICES = (BEST, SINGLE, "first of three", "second of three", "third of three")


@dataclass(frozen=True)
class AttentionSettings:
    """How to look.

    levels: noise levels 0..1 that are averaged; noise_samples: noises drawn per level; seed: of the noise;
    bias: moves the threshold in log-odds: higher gives a smaller mask; softness: width of the soft edge in log-odds;
    smallest: the least contrast (log-odds inside minus outside) that counts as found; radius: window of the edge
    refinement, as a share of the model's native size (0: none); peak_margin: log-odds below the strongest places
    at which a thing ends, as what lies lower is another thing that the words fit less; component_tolerance: how far the
    means of separate parts of the mask may lie below the best one's (the things of one name are alike, others are not);
    min_score: 0..1, the least score that counts as found.
    """

    levels: Sequence[float] = (0.1, 0.2)
    noise_samples: int = setting(
        2,
        name="draws",
        low=1,
        high=16,
        advanced=True,
        help="Noise draws per noise level that are averaged. More is steadier and slower.",
    )
    seed: int = seed_setting("Seed of the noise.", advanced=True, varies=False)
    bias: float = setting(
        0.0,
        low=-10,
        high=10,
        step=0.1,
        advanced=True,
        help="Moves the threshold, which is chosen by Otsu's method: higher gives a smaller mask, lower a larger one. "
        "In log-odds.",
    )
    softness: float = 0.5
    smallest: float = 0.5
    radius: float = 0.12
    peak_margin: float = 2.0
    component_tolerance: float = 0.5
    min_score: float = setting(
        0.0,
        low=0,
        high=1,
        step=0.01,
        advanced=True,
        optional=True,
        help="A thing with a lower score is not found. The tiny world's score is its CLIP's probability that the place "
        "shows the words, and it leaves out what is not there by itself. Other models' score is the mean attention "
        "inside the mask, which some place always gets: try 0.6 if absent things are found. 0: keep all.",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Finding:
    """What happens when a thing is not found."""

    strict: bool = setting(
        False,
        advanced=True,
        help="On: a thing that is not found stops the workflow with an error. Off: it gives an empty mask and a "
        "notice.",
    )


@dataclass(frozen=True)
class DetectorSettings:
    """box_threshold: lowest probability of a box's best word; text_threshold: lowest probability of a word that counts
    as seen in the box, and a box in which no word is seen is left out. most: boxes per phrase and picture."""

    box_threshold: float = setting(
        0.35,
        low=0,
        high=1,
        step=0.01,
        advanced=True,
        help="Grounding DINO's boxes below this score are dropped: lower finds more, also wrong ones.",
    )
    text_threshold: float = setting(
        0.25,
        low=0,
        high=1,
        step=0.01,
        advanced=True,
        help="A word counts as seen in a box of Grounding DINO from this probability on; a box in which no word was "
        "seen is dropped.",
    )
    most: int = 20

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class SegmentSettings:
    """Which of SAM's masks is taken."""

    masks: str = setting(
        BEST,
        choices=MASK_CHOICES,
        advanced=True,
        help="SAM answers three masks (usually part, larger part, whole): the best by its own estimate, or always one "
        "of them; 'single' is its one answer for clear boxes, as the LEAST paper uses it.",
    )


@dataclass(frozen=True)
class OutlineSettings:
    """How the thing in a box is outlined."""

    outline: str = setting(
        "sam",
        choices=OUTLINES,
        optional=True,
        help="sam: by Segment Anything. grabcut: by its colours, with OpenCV, no network. box: the whole box.",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class RefineSettings:
    """Applied in this order; each value's default leaves the mask as it is.

    threshold: harden at this value, 0 keeps the mask soft; largest: keep only the largest connected part; fill: fill
    holes; grow: pixels, negative shrinks; edges: radius in pixels of the guided filter; feather: seam in pixels,
    positive outwards, negative inwards.
    """

    threshold: float = setting(
        0.0,
        low=0,
        high=0.99,
        step=0.01,
        help="0 keeps the mask soft. Above: what is over this value becomes 1, the rest 0.",
    )
    largest: bool = setting(False, name="largest_part", help="On: only the largest connected part stays.")
    fill: bool = setting(False, name="fill_holes", help="On: what the mask walls in becomes part of it.")
    grow: int = setting(
        0, low=-512, high=512, unit="pixels", help="Pixels: positive grows all around, negative shrinks."
    )
    edges: int = setting(
        0,
        low=0,
        high=256,
        unit="pixels",
        help="Moves the outline to the picture's edges within about this many pixels (guided filter); 0 is off.",
    )
    feather: int = setting(
        0,
        low=-256,
        high=256,
        unit="pixels",
        help="Soft seam in pixels: positive outwards, negative inwards; exactly 0 beyond it.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
