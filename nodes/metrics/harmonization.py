"""R2R's evaluation protocol (arXiv:2508.09746): 8-bit pixels, 256 x 256, tables by subset and foreground ratio."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from .checks import check_images, check_mask, check_not_empty
from .measurement import BYTES, Measurement
from .pixels import WINDOW, masked_mse, mse, psnr_of, ssim

BINS = ((0.0, 0.05), (0.05, 0.15), (0.15, 1.0 + 1e-9))
BIN_NAMES = ("0-5 %", "5-15 %", "15-100 %")
SUBSETS = {"a": "HAdobe5k", "c": "HCOCO", "d": "Hday2night", "f": "HFlickr"}
METRICS = ("PSNR", "MSE", "fMSE", "SSIM")
EVERYTHING = "all"


@dataclass(frozen=True)
class HarmonizationSettings:
    """size: side in pixels the pictures are compared at, None: the truth's own size (only the output is resized).
    truth_background: put the truth's background into the output first, as the published run does."""

    size: int | None = 256
    truth_background: bool = True

    def __post_init__(self) -> None:
        if self.size is not None and self.size < WINDOW:
            raise wrong_input("size", self.size, f"{WINDOW} or more, or None", "256 is the published protocol's.")


@dataclass(frozen=True)
class HarmonizationScore:
    """The four numbers of one picture, its foreground ratio in 0..1 and its subset."""

    psnr: float
    mse: float
    fmse: float
    ssim: float
    ratio: float
    subset: str = EVERYTHING

    def values(self) -> tuple[float, ...]:
        return self.psnr, self.mse, self.fmse, self.ssim


def subset_of(name: str) -> str:
    """The part of iHarmony4 that a file name belongs to, by its first letter; RegionStyleError for another letter."""
    if name[:1] not in SUBSETS:
        raise wrong_input("file name", repr(name), f"a first letter of {', '.join(SUBSETS)}", "Use iHarmony4's names.")
    return SUBSETS[name[0]]


def harmonization_score(
    result: Tensor, truth: Tensor, mask: Tensor, settings: HarmonizationSettings | None = None, subset: str = EVERYTHING
) -> HarmonizationScore:
    """One picture: result and truth `[1,3,h,w]` in 0..1 (sizes may differ), mask `[h,w]` in 0..1 at the truth's size.

    Pixels are those of 8-bit pictures in 0..255 as floats; PSNR = 10 log10(255^2 / MSE), inf where they are equal; SSIM
    with data range max(output) - min(truth), as the reference program sets it. RegionStyleError for more than one
    picture, a mask without region or of another size, values that are NaN or out of range.
    """
    settings = settings or HarmonizationSettings()
    for name, images in (("result", result), ("truth", truth)):
        if len(check_images(images, name)) != 1:
            raise wrong_input(name, f"{len(images)} pictures", "one", "Measure them one after the other.")
    mask = check_mask(mask, truth)[0]
    region = compared_region(mask, settings)
    output, target = (_resized(image, region.shape[-2:]) for image in (result, truth))
    check_not_empty(region, "region")
    if settings.truth_background:
        output = output * region[:, None] + target * (1 - region[:, None])
    return _score(output, target, region, subset)


def compared_region(mask: Tensor, settings: HarmonizationSettings | None = None) -> Tensor:
    """The region `[1,h,w]`, 0 or 1, of a mask `[H,W]` at the size pictures are compared at; it may vanish there."""
    size = (settings or HarmonizationSettings()).size
    shape = tuple(mask.shape) if size is None else (size, size)
    return F.interpolate((mask >= 0.5)[None, None].float(), shape, mode="nearest")[0]


def _resized(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear with antialiasing, float64; untouched at the right size."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image.double()
    return F.interpolate(image.double(), tuple(size), mode="bilinear", antialias=True).clamp(0, 1)


def _score(output: Tensor, target: Tensor, region: Tensor, subset: str) -> HarmonizationScore:
    error = mse(output, target, BYTES)
    width = float(output.max() - target.min())
    return HarmonizationScore(
        float(psnr_of(error / 255**2)),
        float(error),
        float(masked_mse(output, target, region, BYTES)),
        # one flat colour has no range: equal pictures are alike, others are compared over the whole range
        float(ssim(output, target, width if width > 0 else 1.0)),
        float(region.mean()),
        subset,
    )


@dataclass(frozen=True)
class HarmonizationRow:
    """The means of one subset in one range of foreground ratio; values None where it holds no picture."""

    subset: str
    ratio: str
    count: int
    measurements: tuple[Measurement, ...]


def harmonization_table(scores: Iterable[HarmonizationScore]) -> list[HarmonizationRow]:
    """Every subset and all pictures together, each over all ratios and by ratio bin; rows without pictures left out."""
    scores = list(scores)
    if not scores:
        raise wrong_input("scores", "none", "one or more", "Measure at least one picture.")
    subsets = [EVERYTHING, *sorted({s.subset for s in scores} - {EVERYTHING})]
    rows = []
    for subset in subsets:
        part = [s for s in scores if subset in (EVERYTHING, s.subset)]
        rows.append(_row(subset, EVERYTHING, part))
        rows += [_row(subset, name, [s for s in part if low <= s.ratio < high]) for name, (low, high) in _bins()]
    return [row for row in rows if row.count]


def _bins() -> list[tuple[str, tuple[float, float]]]:
    return list(zip(BIN_NAMES, BINS, strict=True))


def _row(subset: str, ratio: str, scores: Sequence[HarmonizationScore]) -> HarmonizationRow:
    if not scores:
        return HarmonizationRow(subset, ratio, 0, ())
    means = torch.tensor([s.values() for s in scores], dtype=torch.float64).mean(0).tolist()
    measurements = tuple(Measurement(n, v, "", BYTES, len(scores)) for n, v in zip(METRICS, means, strict=True))
    return HarmonizationRow(subset, ratio, len(scores), measurements)
