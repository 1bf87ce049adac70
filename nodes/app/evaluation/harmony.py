"""Harmonisers on composites of photographs they never saw: shared by the report and the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ...engine.host.base import LocalHost
from ...harmonizer.base import Harmonizer
from ...harmonizer.data.composites import Composite, held_out_composites
from ...harmonizer.data.photographs import HELD_OUT
from ...harmonizer.paste import paste_back
from ...metrics.harmonization import HarmonizationScore, harmonization_score
from ..harmonize import BUNDLED, HarmonizeRequest, harmonizer_of

UNCHANGED = "unchanged"
METHODS = (UNCHANGED, "reinhard", "mkl", "histogram", "poisson", BUNDLED)
SIZE = 256  # pixels, as R2R's protocol measures


def measured_composites(count: int, seed: int = 0) -> list[Composite]:
    """Composites of the held-out photographs: masks of every shape in turn, every photograph equally often."""
    return held_out_composites(HELD_OUT, count, SIZE, seed)


def harmonized(harmonizer: Harmonizer | None, picture: Tensor, mask: Tensor) -> Tensor:
    """A picture `[3,H,W]` harmonised inside its mask `[1,H,W]`; None: as it is. `[1,3,H,W]`."""
    if harmonizer is None:
        return picture[None]
    return paste_back(picture[None], harmonizer.harmonize(picture[None], mask[None]), mask[None])


def score_composites(
    count: int, seed: int = 0, harmonizers: Mapping[str, Harmonizer | None] | None = None,
    step: Callable[[], None] = lambda: None,
) -> tuple[dict[str, list[HarmonizationScore]], list[float]]:  # fmt: skip
    """Method -> a score per composite, and the bundled one's PSNR in dB on the truths, which fit already.

    harmonizers: default `METHODS`; others may be added by the caller. step is called after every composite.
    """
    methods = harmonizers if harmonizers is not None else known_methods()
    scores: dict[str, list[HarmonizationScore]] = {name: [] for name in methods}
    kept = []
    for one in measured_composites(count, seed):
        for name, harmonizer in methods.items():
            result = harmonized(harmonizer, one.composite, one.mask)
            scores[name].append(harmonization_score(result, one.truth[None], one.mask[0]))
        if methods.get(BUNDLED) is not None:
            again = harmonized(methods[BUNDLED], one.truth, one.mask)
            kept.append(float(-10 * torch.log10((again - one.truth).square().mean().clamp_min(1e-9))))
        step()
    return scores, kept


def known_methods() -> dict[str, Harmonizer | None]:
    """`METHODS`, ready to use."""
    return {name: None if name == UNCHANGED else known_method(name) for name in METHODS}


def known_method(name: str) -> Harmonizer:
    """A harmoniser that needs no weights from elsewhere, by name."""
    return harmonizer_of(HarmonizeRequest(name), LocalHost("cpu"))
