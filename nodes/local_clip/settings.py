"""Settings of local CLIP style."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..engine.errors import wrong_input
from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting
from .presets import IMPROVED, PRESETS, Preset

LABEL = "local CLIP style"  # of the progress
Optimise = Literal["network", "pixels", "latent"]
OPTIMISE = ("network", "pixels", "latent")
ORDERS = ("in turn", "together")
STARTS = ("picture", "noise")
SCALES = ("one", "three")
BLENDING = ("over", "poisson")
RATES: dict[str, float] = {"network": 5e-4, "pixels": 1e-2, "latent": 5e-2}
HALVED_EVERY = 100  # iterations
PATCH_OF = 512  # pixels of the frame that `patch` is given for
PRESETS_OWN = -1.0  # what users give for a weight of the preset
OF_PRESET = ("direction_weight", "patch_weight", "content_weight", "variation_weight", "threshold")
SMALLEST = 16  # pixels of a side that is worked on, which the networks can halve as often as they do
# What a call for one picture, on the command line or from Python, says elsewhere or has no use for, and why
ELSEWHERE = {"seed": "seed is an argument of stylize", "next_iterations": "there is one picture"}
LARGEST = 4096  # what pixels can be optimised at within a few GB: patches are cut from it at its own resolution


def _of_preset(high: float, step: float, help: str, **declared: Any) -> float | None:
    """A number that the preset has unless it is given."""
    help = f"{help}; {PRESETS_OWN:g} takes the preset's."
    declared = {"advanced": True, "low": PRESETS_OWN, "none": PRESETS_OWN, **declared}
    return setting(None, high=high, step=step, help=help, **declared)


@dataclass(frozen=True)
class LocalClipSettings:
    """How a picture is optimised; the defaults are the published ones where these exist.

    None is the preset's (weights, threshold), what suits `optimise` (rate) or what suits the networks (size).
    """

    iterations: int = setting(200, low=1, high=100000, help="Optimiser steps for each region; 200 in the paper.")
    optimise: Optimise = setting(
        "network",
        choices=OPTIMISE,
        help="'network': a small network that paints the picture (the paper's); 'pixels': the picture itself; "
        "'latent': its latent, which needs a VAE.",
    )
    order: Literal["in turn", "together"] = setting(
        "in turn",
        choices=ORDERS,
        help="'in turn': each region in the result so far (the paper's); 'together': all in one optimisation, faster.",
    )
    start: Literal["picture", "noise"] = setting(
        "picture",
        choices=STARTS,
        advanced=True,
        help="What the region is at first, where no start image is given: the picture, or noise.",
    )
    direction_weight: float | None = _of_preset(1e6, 50.0, "How much the region as a whole is pulled to the style")
    patch_weight: float | None = _of_preset(1e6, 500.0, "How much its small parts are: strokes and texture")
    content_weight: float | None = _of_preset(1e6, 10.0, "How much its content is held: more keeps more")
    variation_weight: float | None = _of_preset(1e3, 1e-3, "How much noise between pixels is smoothed", round=False)
    threshold: float | None = _of_preset(
        2.0, 0.05, "Patches whose loss has fallen below are left alone; higher is a gentler style"
    )
    rate: float | None = setting(
        None, none=0, low=0, high=10, step=1e-4, round=False, advanced=True, help="Learning rate; 0 takes the usual."
    )
    patches: int = setting(64, low=1, high=1024, help="Patches that are looked at in each iteration.")
    patch: int = setting(
        100,
        low=8,
        high=512,
        unit="pixels",
        help="Their side in pixels, in a frame of 512 pixels: large strokes or fine.",
    )
    scales: Literal["one", "three"] = setting(
        "one",
        choices=SCALES,
        advanced=True,
        help="'three': a third of the patches of half the side, a third of twice the side.",
    )
    size: int | None = setting(
        None,
        none=0,
        low=0,
        high=LARGEST,
        step=8,
        unit="pixels",
        advanced=True,
        help="Side in pixels of what is worked on; 0 takes what suits the networks (512). A region up to this size "
        "keeps its own pixels; make patch smaller for it.",
    )
    margin: float = setting(
        0.2,
        low=0,
        high=4,
        step=0.05,
        advanced=True,
        help="Surroundings seen beside the region, as a share of its box; presets 'reference' and 'paper' always see "
        "the whole picture.",
    )
    largest_scale: float = setting(
        4.0,
        low=0.25,
        high=64,
        step=0.25,
        advanced=True,
        help="How many times a small region is enlarged, at most; without effect in presets 'reference' and 'paper', "
        "which work on the whole picture.",
    )
    feather: int = setting(
        2,
        low=-256,
        high=256,
        unit="pixels",
        help="Seam of the mask in pixels; negative grows inwards. Presets 'reference' and 'paper' have a hard edge, "
        "without a seam.",
    )
    patience: int = setting(
        0,
        low=0,
        high=100000,
        unit="iterations",
        advanced=True,
        help="Stop when every patch has been satisfied for so many iterations in a row; 0 never stops early.",
    )
    next_iterations: int = setting(
        0,
        low=0,
        high=100000,
        advanced=True,
        help="For a batch or the frames of a film: every picture after the first begins with the network of the one "
        "before and takes so many iterations; 0 begins anew each time.",
    )
    half: bool = setting(
        False, advanced=True, help="Run CLIP in half precision: faster on a GPU, gradients a little less exact."
    )
    keep_best: bool = setting(
        True, advanced=True, help="Cancelling ends the optimisation and goes on with the best picture so far."
    )
    seed: int = seed_setting("Seed of the network's weights and of the patches.")
    preview_every: int = setting(20, low=1, high=100000, advanced=True, help="Iterations between two previews.")
    preset: Preset = setting(
        IMPROVED,
        choices=PRESETS,
        advanced=True,
        help="'improved': a window around each region, soft edges, patches counted by the mask; 'reference': the "
        "formulas of LEAST's published code; 'paper': those of its text; 'improved-tiny': patches are pushed further, "
        "for the tiny CLIP.",
    )
    blending: Literal["over", "poisson"] = setting(
        "over",
        choices=BLENDING,
        advanced=True,
        optional=True,
        help="'over': the result is laid over the picture; 'poisson': its differences are, so that its colours meet "
        "the picture's at the region's border.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.size is not None and 0 < self.size < SMALLEST:
            remedy = "0 takes what suits the networks."
            raise wrong_input("size", self.size, f"0, or {SMALLEST} to {LARGEST} pixels", remedy)
        for name in OF_PRESET:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise wrong_input(name, value, f"0 or more, or {PRESETS_OWN:g} for the preset's", "Give one of these.")

    def weight(self, term: str) -> float:
        """The weight of a term ("direction", "patch", "content", "variation"): what was chosen, or the preset's."""
        chosen: float | None = getattr(self, f"{term}_weight")
        preset: float = getattr(self.preset, f"{term}_weight")
        return preset if chosen is None else chosen

    @property
    def satisfied(self) -> float:
        """The loss below which a patch is left alone."""
        return self.preset.threshold if self.threshold is None else self.threshold

    def rate_at(self, iteration: int) -> float:
        """The learning rate of an iteration, from 0. Halving begins one iteration early, as the published loop does."""
        first = RATES[self.optimise] if self.rate is None else self.rate
        return first if self.preset.schedule == "constant" else first * 0.5 ** ((iteration + 1) // HALVED_EVERY)
