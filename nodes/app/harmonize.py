"""Fitting a foreground to its background: the use case behind `regionstyle harmonize`, `regionstyle paste`,
`regionstyle.harmonize`, and the last step of `stylize --harmonize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..engine.errors import wrong_input
from ..engine.host.base import Host
from ..harmonizer.base import Harmonizer, enlarged_result
from ..harmonizer.paste import paste_back
from ..harmonizer.r2r.settings import R2RSettings

BUNDLED, R2R = "bundled", "r2r"


def _bundled(request: HarmonizeRequest, host: Host) -> Harmonizer:
    from ..harmonizer.small.harmonizer import SmallHarmonizer

    return SmallHarmonizer()


def _statistics(method: str) -> Maker:
    def made(request: HarmonizeRequest, host: Host) -> Harmonizer:
        from ..harmonizer.statistics.harmonizer import StatisticsHarmonizer

        return StatisticsHarmonizer(method)

    return made


def _poisson(request: HarmonizeRequest, host: Host) -> Harmonizer:
    from ..harmonizer.poisson import PoissonHarmonizer

    return PoissonHarmonizer()


def _r2r(request: HarmonizeRequest, host: Host) -> Harmonizer:
    from ..harmonizer.r2r.files import load_r2r
    from ..harmonizer.r2r.pipeline import R2RHarmonizer

    assert request.weights is not None  # `check` has seen to it
    networks = load_r2r(request.weights, unet_dtype=host.dtype("unet"), vae_dtype=host.dtype("vae"))
    return R2RHarmonizer(networks, host, request.r2r)


# What the command line and Python call each harmoniser.
HARMONIZERS: Mapping[str, Maker] = {
    BUNDLED: _bundled,
    "reinhard": _statistics("reinhard"),
    "mkl": _statistics("mkl"),
    "histogram": _statistics("histogram"),
    "poisson": _poisson,
    R2R: _r2r,
}


@dataclass(frozen=True, eq=False)
class HarmonizeRequest:
    """method: one of `HARMONIZERS`; reference `[1,3,h,w]` and reference_mask `[1,1,h,w]` in 0..1, or None; seam: pixels
    over which the change fades in; seed: of a harmoniser that draws at random; weights: folder or checkpoint of "r2r",
    which nothing else has; r2r: its settings, None: the published ones."""

    method: str = BUNDLED
    reference: Tensor | None = None
    reference_mask: Tensor | None = None
    seam: float = 0.0
    seed: int = 0
    weights: Path | None = None
    r2r: R2RSettings | None = None

    def check(self) -> None:
        """RegionStyleError for a method that there is not, a seam out of range, and R2R's things without it."""
        if self.method not in HARMONIZERS:
            accepts = f"one of {', '.join(HARMONIZERS)}"
            raise wrong_input("--method", repr(self.method), accepts, "Choose one of these.")
        if not 0 <= self.seam <= 256:
            raise wrong_input("--seam", self.seam, "0 to 256 pixels", "0 leaves the mask as it is.")
        self._check_r2r()

    def _check_r2r(self) -> None:
        """What belongs to R2R comes with it, and it does not come without weights."""
        if self.method == R2R:
            if self.weights is None:
                from ..harmonizer.r2r.files import PUBLIC

                raise wrong_input("--weights", "none with r2r", "R2R's folder or checkpoint", f"Public: {PUBLIC}.")
            return
        for name, value in (("--weights", self.weights), ("settings of R2R", self.r2r)):
            if value is not None:
                got = f"them with the method {self.method!r}"
                raise wrong_input(name, got, "them with r2r", "Choose the method r2r, or leave them out.")


Maker = Callable[[HarmonizeRequest, Host], Harmonizer]


@dataclass(frozen=True, eq=False)
class HarmonizeResult:
    """image `[B,3,H,W]`, bit-equal to the composite where the mask is 0; mask `[B,H,W]`; warning ("": none)."""

    image: Tensor
    mask: Tensor
    warning: str = ""


def harmonizer_of(request: HarmonizeRequest, host: Host) -> Harmonizer:
    """Who a checked request names, loaded."""
    return HARMONIZERS[request.method](request, host)


def harmonize(
    images: Tensor, masks: Tensor, request: HarmonizeRequest, host: Host, *, opacity: Tensor | None = None
) -> HarmonizeResult:
    """Harmonise composites `[B,3,H,W]` in 0..1 with masks `[B,H,W]` in 0..1, 1 = foreground.

    opacity: of the composites `[B,H,W]`; what cannot be seen is no background. Works on the host's device. Pictures
    whose mask is empty stay as they are, which the warning says. RegionStyleError for a mask that covers a
    whole picture (without a reference), one of a few pixels, and what the request does not accept.
    """
    request.check()
    harmonizer = harmonizer_of(request, host)
    result, empty = images.clone(), []
    progress = host.progress(len(images), "harmonising")
    device = host.device if host.device.type == "cuda" else images.device  # others may lack double precision
    for index in range(len(images)):
        composite, mask = images[index : index + 1], masks[index, None, None].to(images)
        seen = None if opacity is None else opacity[index, None, None].to(images)
        given, region, reference, of_reference = what_is_seen(composite, mask, request, seen)
        if bool((region > 0).any()):
            made = harmonizer.harmonize(
                given.to(device), region.to(device), reference=reference, reference_mask=of_reference,
                seed=request.seed, on_step=lambda done, total, preview: host.check(),
            ).to(images)  # fmt: skip
            result[index : index + 1] = paste_back(composite, made, region, seam=request.seam)
        else:
            empty.append(index + 1)
        progress.update(index + 1, result[index])
    size = (images.shape[-2], images.shape[-1])
    enlarged = enlarged_result(harmonizer, size) if len(empty) < len(images) else ""
    warning = "\n".join(filter(None, [_warning(images, result, empty), enlarged]))
    return HarmonizeResult(result, masks, warning)


def what_is_seen(
    composite: Tensor, mask: Tensor, request: HarmonizeRequest, opacity: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Composite `[1,3,H,W]`, mask `[1,1,H,W]`, reference and its mask without what an opacity `[1,1,H,W]` hides.

    Statistics are taken of the visible background only, as of a reference; who looks at places gets its colours carried
    on to where nothing is seen.
    """
    reference, region = request.reference, request.reference_mask
    if opacity is None or not bool((mask > 0).any()):
        return composite, mask, reference, region
    from ..harmonizer.settings import METHODS
    from ..harmonizer.unseen import seen_background, unseen_filled

    if reference is None:
        seen = seen_background(mask, opacity)
        if request.method in METHODS:
            reference, region = composite, seen
    return *unseen_filled(composite, mask, opacity), reference, region


def _warning(images: Tensor, result: Tensor, empty: list[int]) -> str:
    if empty:
        which = "" if len(images) == 1 else f" of picture {', '.join(map(str, empty))}"
        return f"the mask{which} is empty: nothing was harmonised there"
    return "the result equals the composite" if torch.equal(images, result) else ""
