"""Everything that can be said about one edit: a result beside its source, the region, and the style asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .harmonization import BIN_NAMES, BINS
from .measurement import SIGNED, UNIT, Measurement, check_tiny, mean_of
from .networks.networks import MetricNetworks
from .page.drawing import draw_table, shown
from .pixels import mse, psnr, ssim
from .regional_style import regional_style_score
from .settings import RegionalStyleSettings
from .text_image import masked_crop_clip_score

BETTER = {
    "RSM": "higher", "CLIP score": "higher", "LPIPS_bg": "lower", "MSE_bg": "lower", "PSNR": "higher",
    "SSIM": "higher", "MSE": "lower", "LPIPS": "lower",
}  # fmt: skip


@dataclass(frozen=True)
class EditScore:
    """per_image: the numbers of each picture, in the order of the batch; ratios: foreground share of each in 0..1."""

    per_image: tuple[tuple[Measurement, ...], ...]
    ratios: tuple[float, ...]

    @property
    def mean(self) -> list[Measurement]:
        """Every number averaged over the batch."""
        return [mean_of(column) for column in zip(*self.per_image, strict=True)]

    def value(self, name: str) -> float:
        """The mean of one metric, with or without its "-tiny"."""
        return next(m.value for m in self.mean if m.name.removesuffix("-tiny") == name)

    def by_ratio(self) -> dict[str, list[Measurement]]:
        """The means by foreground ratio, as R2R's tables split it; bins without pictures left out."""
        means = {}
        for name, (low, high) in zip(BIN_NAMES, BINS, strict=True):
            rows = [row for row, ratio in zip(self.per_image, self.ratios, strict=True) if low <= ratio < high]
            if rows:
                means[name] = [mean_of(column) for column in zip(*rows, strict=True)]
        return means


def score_edit(
    networks: MetricNetworks,
    result: Tensor,
    source: Tensor,
    mask: Tensor,
    styles: Sequence[str],
    settings: RegionalStyleSettings | None = None,
    check: Callable[[], None] = lambda: None,
) -> EditScore:
    """Measure results `[B,3,H,W]` in 0..1 against their sources, masks `[B,H,W]`, one style per picture.

    check: raises on cancel, called before each picture. RegionStyleError as in `regional_style_score`.
    """
    rows = []
    for index, style in enumerate(styles):
        check()
        part = slice(index, index + 1)
        rows.append(_one(networks, result[part], source[part], mask[part], style, settings))
    return EditScore(tuple(rows), tuple(mask.flatten(1).mean(1).tolist()))


def _one(
    networks: MetricNetworks,
    result: Tensor,
    source: Tensor,
    mask: Tensor,
    style: str,
    settings: RegionalStyleSettings | None,
) -> tuple[Measurement, ...]:
    model, distance = networks.text_image, networks.distance
    regional = regional_style_score(model, distance, result, source, mask, [style], settings)
    clip = float(masked_crop_clip_score(model, result, mask, [style]))
    perceptual = float(distance(result, source))
    return (
        regional.rsm,
        Measurement(check_tiny("CLIP score", model.backbone), clip, model.backbone, UNIT),
        regional.lpips_bg,
        regional.mse_bg,
        Measurement("PSNR", float(psnr(result, source)), "", UNIT),
        Measurement("SSIM", float(ssim(result, source)), "", UNIT),
        Measurement("MSE", float(mse(result, source, UNIT)), "", UNIT),
        Measurement(check_tiny("LPIPS", distance.backbone), perceptual, distance.backbone, SIGNED),
    )


def score_table(score: EditScore, title: str) -> Tensor:
    """The means as a picture `[1,H,W,3]` in 0..1."""
    rows = [
        [m.name, shown(m.value), BETTER[m.name.removesuffix("-tiny")], m.backbone or "-", m.pixel_range, str(m.count)]
        for m in score.mean
    ]
    notes = ["-tiny: measured by this pack's own small networks; not comparable with published numbers."]
    tiny = any(m.name.endswith("-tiny") for m in score.mean)
    header = ["metric", "value", "better", "backbone", "pixels", "pictures"]
    table = draw_table(title, header, rows, notes if tiny else [])
    return torch.from_numpy(table.copy())[None].float() / 255
