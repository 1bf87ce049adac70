"""Settings of guidance by attention, of the background lock, and of attention maps."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.settings.checks import check_settings
from ..engine.settings.setting import seed_setting, setting

FORMS = ("bias", "gradient", "composition")  # tests compare them with those of the model families
WORDS = ("style and thing", "style", "thing")
KINDS = ("logodds", "text", "joint", "selected")  # of `engine.attention.supervision`


@dataclass(frozen=True)
class GuidanceSettings:
    """How words are held to their regions while sampling.

    form: "bias" adds to attention logits, "gradient" moves the latent down the losses' gradient, "composition" predicts
    each region with a prompt of its own and blends; end: share of the steps that are guided; bias: in standard
    deviations of the logits; step: of the gradient, as a share of the latent's size, falling to 0 at the end; repeats:
    gradient steps per sampling step; stop: no more of them below this loss; words: which of a region's are supervised.
    attention, focus, cover, tau, kappa: see `engine.attention.supervision.LossSettings`.
    """

    form: str = setting(
        "bias",
        choices=FORMS,
        help="bias: adds to the attention of words inside their region (cheap). gradient: moves the latent until "
        "they look there (SD1.5 and SDXL; two to three times the work). composition: predicts each region with its own "
        "prompt and blends.",
    )
    end: float = setting(
        0.5, low=0, high=1, step=0.05, help="Share of the steps that are guided; the first ones decide the layout."
    )
    bias: float = setting(
        1.0,
        low=0,
        high=20,
        step=0.1,
        help="For bias: how much is added inside and taken away outside, in standard deviations of the attention's "
        "logits. It falls to 0 at the end.",
    )
    step: float = setting(
        0.05,
        low=0,
        high=1,
        step=0.005,
        help="For gradient: the first step as a share of the latent's size. It falls to 0 at the end.",
    )
    repeats: int = setting(1, low=1, high=5, advanced=True, help="For gradient: steps of it per sampling step.")
    stop: float = setting(
        0.0, low=0, high=100, step=0.05, advanced=True, help="For gradient: none below this loss; 0 never stops."
    )
    words: str = setting(
        "style and thing",
        choices=WORDS,
        advanced=True,
        help="Which words of a region are held to it: those of its style, those of the thing, or both alike.",
    )
    attention: str = setting(
        "logodds",
        choices=KINDS,
        advanced=True,
        help="The supervised quantity: log-odds against the other words, the share of the words' attention (text), "
        "of all attention (joint, as in the paper), or of the supervised tokens alone (selected, as in its code; it "
        "has no signal for a single style).",
    )
    focus: float = setting(1.0, low=0, high=100, step=0.05, advanced=True, help="Weight of the Focus loss.")
    cover: float = setting(1.0, low=0, high=100, step=0.05, advanced=True, help="Weight of the Cover loss.")
    tau: float = setting(0.5, low=0.01, high=10, step=0.05, advanced=True, help="Temperature of the Focus loss.")
    kappa: float = setting(2.0, low=0.01, high=20, step=0.1, advanced=True, help="Steepness of the Cover loss.")

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class LockSettings:
    """How the background is held.

    release: steps at the end that are free, so that the seam heals; 0 keeps the background's latent exactly.
    """

    release: int = setting(
        0,
        low=0,
        high=100,
        unit="steps",
        help="Last steps that are free, so that the seam heals; 0 holds the background exactly. 1 to 3 are usual.",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class SamplingSettings:
    """How the ready node samples; ComfyUI's own words."""

    seed: int = seed_setting("Seed of the noise.")
    steps: int = setting(20, low=1, high=1000, help="Sampling steps.")
    cfg: float = setting(7.0, low=0, high=100, step=0.1, help="Guidance by the negative prompt; 1 is off.")
    denoise: float = setting(
        1.0, low=0.01, high=1, step=0.01, help="How much is drawn anew: 1 all of it, less keeps what the latent shows."
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class MapSettings:
    """Where and how attention is looked at.

    level: of noise, 0 (clean) to 1; draws: of noise that are averaged; layers: "useful" (those whose maps say what goes
    where), "all", "finest", or a part of a layer's path; attention: see `GuidanceSettings`.
    """

    level: float = setting(
        0.5, low=0, high=1, step=0.05, help="How much noise is laid over the picture: 0 none, 1 nothing but noise."
    )
    layers: str = setting(
        "useful",
        help="useful: the layers whose maps say best what goes where; finest: those with the finest grid; all; or a "
        "part of a layer's name as the output 'layers' lists them.",
    )
    attention: str = setting(
        "logodds",
        choices=KINDS[:3],
        help="logodds: against the other words, shown as a probability. text: share of the words' attention. joint: "
        "share of all attention. The last two are stretched to 0..1.",
    )
    draws: int = setting(2, low=1, high=64, help="Noise draws that are averaged.")
    seed: int = seed_setting("Seed of the noise.")

    def __post_init__(self) -> None:
        check_settings(self)
