"""All data sets by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...engine.errors import wrong_input
from . import published
from .harmonization import load_iharmony4, load_realhm
from .published import Published
from .regional import load_big, load_coco, load_least, load_voc
from .samples import HARMONIZATION, REGIONAL, STYLE, STYLES, Sample
from .style import load_lhq, load_pie_bench

KINDS = {
    "coco": REGIONAL, "voc": REGIONAL, "big": REGIONAL, "least": REGIONAL, "pie-bench": STYLE, "lhq": STYLE,
    "iharmony4": HARMONIZATION, "realhm": HARMONIZATION,
}  # fmt: skip
_STYLED = {"coco": load_coco, "voc": load_voc, "big": load_big}
_PLAIN = {
    "least": load_least, "pie-bench": load_pie_bench, "lhq": load_lhq, "iharmony4": load_iharmony4,
    "realhm": load_realhm,
}  # fmt: skip
_PUBLISHED = {
    "coco": published.COCO, "voc": published.VOC, "big": published.BIG, "least": published.LEAST,
    "pie-bench": published.SMS, "lhq": published.LHQ, "iharmony4": published.IHARMONY4, "realhm": published.REALHM,
}  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """A data set on this machine: kind "regional", "style" or "harmonization", its samples and published figures."""

    name: str
    kind: str
    samples: tuple[Sample, ...]
    published: Published


def load_dataset(name: str, root: Path, styles: Sequence[str] = (), limit: int | None = None) -> Dataset:
    """A data set in its published layout.

    styles: in turn, instead of RegionRoute's four (coco, voc, big), or for pictures without one (pie-bench, lhq);
    limit: the first so many samples. RegionStyleError naming what is missing.
    """
    if name not in KINDS:
        raise wrong_input("data set", repr(name), ", ".join(KINDS), "Choose one of these.")
    if styles and name not in _STYLED and KINDS[name] != STYLE:
        raise wrong_input("--style", ", ".join(styles), f"no style for {name}", "Its samples bring their own.")
    samples = _STYLED[name](root, tuple(styles) or STYLES) if name in _STYLED else _PLAIN[name](root)
    if styles and KINDS[name] == STYLE:
        samples = [replace(sample, style=styles[i % len(styles)]) for i, sample in enumerate(samples)]
    return Dataset(name, KINDS[name], tuple(samples[:limit]), _PUBLISHED[name])
