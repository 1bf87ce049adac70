"""Settings of SMS: optimising a picture, training a generator, applying one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..engine.errors import wrong_input
from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting
from .presets import PRESETS, REFERENCE, Preset

LABEL = "matching style"  # of the progress
Kind = Literal["narrowing", "uniform", "linear"]
KINDS = ("narrowing", "uniform", "linear")
SMALLEST, LARGEST = 20, 500  # t_min and t_max
Content = Literal["spectrum", "fixed cutoff", "latent"]
STARTS = ("mode", "sample")
DETAILS = ("auto", "native", "full", "both")
CONTENTS = ("spectrum", "fixed cutoff", "latent")
GENERATOR_RATES = {"tiny": 1e-3, "residual": 3e-4}  # architecture -> its usual learning rate


@dataclass(frozen=True)
class StyleStrength:
    """How strongly the attached experts act in SMS."""

    strength: float = setting(
        0.8, low=0.01, high=4, step=0.05, help="Multiplies the strength that the experts are attached with."
    )


@dataclass(frozen=True)
class SmsSettings:
    """How SMS runs; the defaults are the published ones.

    iterations: N; balance: weight of the spectrum term (None: the preset's; 0 switches it off, more keeps more of the
    content); guidance: None: the preset's; rate, fake_rate: learning rates of latent and fake predictor; relevance:
    whether the gradient is weighed by the relevance map; schedule: of the timesteps; lowest, highest: their range;
    content: what is held, "spectrum" (low frequencies up to a bound that follows t), or, to compare with, "fixed
    cutoff" (up to the middle one whatever t is) or "latent" (mean square distance in place of frequencies); seed;
    start: the source's latent is the "mode" of the autoencoder's distribution, or a "sample" of it (published code);
    tolerance: stop early when the mean of |R * gradient| / w_t over `window` iterations falls below (0: never);
    preview_every: iterations between two previews.
    """

    preset: Preset = setting(
        REFERENCE,
        choices=PRESETS,
        advanced=True,
        help="'reference': the formulas of the published code; 'paper': those of the paper's text.",
    )
    # the first iteration has a learning rate of 0, as published: alone it would change nothing
    iterations: int = setting(
        500,
        low=2,
        high=1000000,
        help="Optimiser steps; 500 in the paper. Each costs about eight passes of the model.",
    )
    balance: float | None = setting(
        None,
        name="content",
        low=0,
        high=1,
        step=1e-4,
        round=False,
        help="How much the low frequencies are held: more keeps more of the content, 0 lets go.",
    )
    guidance: float | None = setting(None, low=0, high=100, step=0.1, help="Classifier-free guidance.")
    rate: float = setting(0.1, low=1e-6, high=10, step=0.01, round=False, help="Learning rate of the picture's latent.")
    fake_rate: float = setting(
        1e-3,
        low=0,
        high=1,
        step=1e-4,
        round=False,
        advanced=True,
        help="Learning rate of the fake predictor, which follows the picture.",
    )
    relevance: bool = setting(
        True,
        advanced=True,
        help="Change most where the words for the style change the model's mind (relevance map).",
    )
    schedule: Kind = setting(
        "narrowing",
        choices=KINDS,
        advanced=True,
        help="Timesteps: 'narrowing' draws below a falling bound (the paper's), 'uniform' from the whole range, "
        "'linear' follows the bound itself.",
    )
    lowest: int = SMALLEST
    highest: int = LARGEST
    seed: int = seed_setting("Seed of timesteps and noise.")
    tolerance: float = setting(
        0.0,
        low=0,
        high=100,
        step=0.001,
        round=False,
        advanced=True,
        help="Stop early when the style's pull has fallen below this; 0 never stops early.",
    )
    window: int = 25
    preview_every: int = setting(50, low=1, high=100000, help="Iterations between two previews.")
    content: Content = "spectrum"
    start: Literal["mode", "sample"] = setting(
        "mode",
        choices=STARTS,
        advanced=True,
        help="The source's latent is the mode of the autoencoder's distribution, or a sample of it (published code).",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.content not in CONTENTS:
            raise wrong_input("content", repr(self.content), f"one of {list(CONTENTS)}", "'spectrum' is the paper's.")
        if self.window < 1:
            raise wrong_input("window", self.window, "1 or more", "Correct it.")
        if not 3 <= self.lowest < self.highest <= 1000:
            got = f"{self.lowest}..{self.highest}"
            raise wrong_input("timesteps", got, "3 <= lowest < highest <= 1000", "The paper takes 20..500.")


@dataclass(frozen=True)
class Framing:
    """How much of a picture is worked on around a mask, the seam in pixels (negative: inwards), and at which size."""

    margin: float = setting(
        0.25,
        low=0,
        high=4,
        step=0.05,
        advanced=True,
        help="Context around a masked region, as a share of its size.",
    )
    feather: int = setting(
        2,
        low=-256,
        high=256,
        unit="pixels",
        advanced=True,
        help="Seam in pixels; positive grows outwards, negative inwards.",
    )
    detail: str = setting(
        "auto",
        choices=DETAILS,
        optional=True,
        help="native: one crop at the model's size, enlarged back. full: overlapping tiles at the picture's own size, "
        "each as much work as the crop. both: half the iterations each. auto: tiles where a crop would be enlarged "
        "over 1.5 times.",
    )
    largest_scale: float = 1.0

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class DistillSettings:
    """How a generator is trained. sms: the method (its `iterations` come after the warm-up, its `rate` is the
    generator's learning rate, its tolerance is not read and must be 0).

    architecture: key of `ARCHITECTURES`; copies: noisy versions of one picture per iteration (4 in the paper);
    warm_up: iterations of reconstruction; size: side of the crops in pixels (None: the model's own).
    """

    sms: SmsSettings = SmsSettings(iterations=2000, rate=GENERATOR_RATES["tiny"])
    architecture: str = setting(
        "tiny",
        choices=tuple(GENERATOR_RATES),
        help="'tiny': 2 MB, quick; 'residual': the paper's size, 11 million parameters.",
    )
    copies: int = setting(
        4, low=1, high=64, advanced=True, help="Noisy versions of one picture per iteration; 4 in the paper."
    )
    warm_up: int = setting(100, low=0, high=100000, help="Iterations that only teach to give back the input.")
    size: int | None = setting(
        None,
        none=0,
        low=0,
        high=4096,
        step=8,
        unit="pixels",
        advanced=True,
        help="Side of the crops in pixels; 0 takes the model's own.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if self.sms.tolerance:
            raise wrong_input("tolerance", self.sms.tolerance, "0", "A training does not stop early.")

    @property
    def total(self) -> int:
        """All iterations, warm-up included."""
        return self.warm_up + self.sms.iterations


@dataclass(frozen=True)
class ApplySettings:
    """How a generator is applied: seam of the mask in pixels (negative: inwards), side of a tile in pixels."""

    feather: int = setting(
        2,
        low=-256,
        high=256,
        unit="pixels",
        help="Seam of the mask in pixels; positive grows outwards, negative inwards.",
    )
    tile: int = setting(
        512,
        low=64,
        high=8192,
        step=64,
        unit="pixels",
        advanced=True,
        help="Side of a tile in pixels. Smaller ones need less memory; the result is the same. Halved where memory "
        "runs out.",
    )
