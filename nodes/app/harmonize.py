"""Fitting a foreground to its background: the use case behind `regionstyle harmonize`, `regionstyle paste`,
`regionstyle.harmonize`, and the last step of `stylize --harmonize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.errors import wrong_input
from ..engine.host.base import Host
from ..harmonizer.base import Harmonizer
from ..harmonizer.paste import paste_back

BUNDLED = "bundled"


def _bundled() -> Harmonizer:
    from ..harmonizer.small.harmonizer import SmallHarmonizer

    return SmallHarmonizer()


def _statistics(method: str) -> Callable[[], Harmonizer]:
    def made() -> Harmonizer:
        from ..harmonizer.statistics.harmonizer import StatisticsHarmonizer

        return StatisticsHarmonizer(method)

    return made


def _poisson() -> Harmonizer:
    from ..harmonizer.poisson import PoissonHarmonizer

    return PoissonHarmonizer()


# What the command line and Python call each harmoniser.
HARMONIZERS: Mapping[str, Callable[[], Harmonizer]] = {
    BUNDLED: _bundled,
    "reinhard": _statistics("reinhard"),
    "mkl": _statistics("mkl"),
    "histogram": _statistics("histogram"),
    "poisson": _poisson,
}


@dataclass(frozen=True, eq=False)
class HarmonizeRequest:
    """method: one of `HARMONIZERS`; reference `[1,3,h,w]` and reference_mask `[1,1,h,w]` in 0..1, or None; seam: pixels
    over which the change fades in; seed: of a harmoniser that draws at random."""

    method: str = BUNDLED
    reference: Tensor | None = None
    reference_mask: Tensor | None = None
    seam: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """RegionStyleError for a method that there is not, and a seam out of range."""
        if self.method not in HARMONIZERS:
            accepts = f"one of {', '.join(HARMONIZERS)}"
            raise wrong_input("--method", repr(self.method), accepts, "Choose one of these.")
        if not 0 <= self.seam <= 256:
            raise wrong_input("--seam", self.seam, "0 to 256 pixels", "0 leaves the mask as it is.")


@dataclass(frozen=True, eq=False)
class HarmonizeResult:
    """image `[B,3,H,W]`, bit-equal to the composite where the mask is 0; mask `[B,H,W]`; warning ("": none)."""

    image: Tensor
    mask: Tensor
    warning: str = ""


def harmonize(images: Tensor, masks: Tensor, request: HarmonizeRequest, host: Host) -> HarmonizeResult:
    """Harmonise composites `[B,3,H,W]` in 0..1 with masks `[B,H,W]` in 0..1, 1 = foreground.

    Pictures whose mask is empty stay as they are, which the warning says. RegionStyleError for a mask that covers a
    whole picture (without a reference), one of a few pixels, and what the request does not accept.
    """
    request.check()
    harmonizer = HARMONIZERS[request.method]()
    result, empty = images.clone(), []
    progress = host.progress(len(images), "harmonising")
    for index in range(len(images)):
        composite, mask = images[index : index + 1], masks[index, None, None].to(images)
        if bool((mask > 0).any()):
            made = harmonizer.harmonize(
                composite, mask, reference=request.reference, reference_mask=request.reference_mask,
                seed=request.seed, on_step=lambda done, total, preview: host.check(),
            )  # fmt: skip
            result[index : index + 1] = paste_back(composite, made, mask, seam=request.seam)
        else:
            empty.append(index + 1)
        progress.update(index + 1, result[index])
    return HarmonizeResult(result, masks, _warning(images, result, empty))


def _warning(images: Tensor, result: Tensor, empty: list[int]) -> str:
    if empty:
        which = "" if len(images) == 1 else f" of picture {', '.join(map(str, empty))}"
        return f"the mask{which} is empty: nothing was harmonised there"
    return "the result equals the composite: it fits already" if torch.equal(images, result) else ""
