"""Settings of the scores: what their papers leave open, or vary."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.errors import wrong_input
from ..engine.settings.checks import check_settings
from ..engine.settings.setting import setting
from .measurement import RANGE_SCALE, SIGNED

BACKGROUNDS = ("map", "fill")
SENTENCE = "a picture in {style} style"


@dataclass(frozen=True)
class RegionalStyleSettings:
    """The options that the paper leaves open.

    margin: around the mask's box, as a share of its longer side ("a small margin"; 0.1).
    sentence: the text of a style, `{style}` replaced ("a picture in {style} style").
    background: how LPIPS is restricted to the outside: "map" averages its per-pixel map there, "fill" puts the
    source's region into the result and takes the ordinary number.
    pixel_range: of MSE_bg; "-1..1", since the published values reach 0.44, which 0..1 hardly can.
    soft: weigh by the soft mask; False cuts it at 0.5 first.
    """

    margin: float = setting(
        0.1,
        low=0,
        high=4,
        step=0.05,
        advanced=True,
        help="RSM looks at the mask's box plus this share of its longer side.",
    )
    sentence: str = setting(
        SENTENCE,
        advanced=True,
        help="What RSM compares the region with; {style} stands for the style's words.",
    )
    background: str = setting(
        "map",
        choices=BACKGROUNDS,
        advanced=True,
        help="LPIPS outside the mask: 'map' averages its per-pixel map there; 'fill' puts the source's region into the "
        "result first and takes the whole picture.",
    )
    pixel_range: str = setting(
        SIGNED,
        choices=tuple(RANGE_SCALE),
        advanced=True,
        help="Pixels of MSE_bg. -1..1 gives four times the number of 0..1.",
    )
    soft: bool = setting(
        True,
        name="soft_mask",
        advanced=True,
        help="On: half-covered pixels count half. Off: the mask is cut at 0.5 first.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if "{style}" not in self.sentence:
            raise wrong_input("sentence", repr(self.sentence), "a text with {style} in it", "Add {style}.")
