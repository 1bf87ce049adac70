"""Row "photographs": whole photographs nobody trained on, in tiles at full size, against one crop and a generator.

The exact filter is known. A quick run takes the smaller photograph and one style.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...engine.region.regions import region_of
from ...metrics.measurement import UNIT, Measurement, check_tiny
from ...metrics.pixels import mse, psnr_of
from ...metrics.structure import edge_correlation
from ...tinyworld.backgrounds import HELD_OUT_PHOTOS
from ...tinyworld.classifier import Classifier, load_photo_classifier
from ..edit import edit
from ..evaluation.photos import held_out_photo, painted, recognised, truth_of
from ..local_model import TINY, LocalModel, open_model
from ..metric_networks import TINY_CLASSIFIER
from ..painters.generator import GeneratorPainter, find_generator
from .rows import RowContext, RowResult, row

STYLES, QUICK_STYLES = ("watercolor", "neon"), ("watercolor",)  # those that a generator ships for
SIDE, QUICK_SIDE = 512, 256  # longer side in pixels
PHOTO, FULL, NATIVE, GENERATOR = "photograph, unchanged", "expert, tiles", "expert, one crop", "generator, one pass"
EXACT = "exact filter"


@row(
    "photographs",
    title="Photographs at full size: tiles against one crop and a generator",
    paper="MultiDiffusion (Bar-Tal et al. 2023), section 4: a network of one size on a larger canvas.",
)
def photographs(context: RowContext) -> RowResult:
    """Every method on the same photographs and styles; a repetition is another seed of the noise."""
    styles, side = (QUICK_STYLES, QUICK_SIDE) if context.quick else (STYLES, SIDE)
    photos = {word: held_out_photo(word, side) for word in list(HELD_OUT_PHOTOS)[: 1 if context.quick else 2]}
    model = open_model(TINY, context.inner_host(), styles=styles)
    judge = load_photo_classifier()
    methods: dict[str, Callable[[Tensor, str, int], Tensor]] = {
        PHOTO: lambda photo, style, seed: photo,
        FULL: lambda photo, style, seed: painted(model, photo, style, "full", seed),
        NATIVE: lambda photo, style, seed: painted(model, photo, style, "native", seed),
        GENERATOR: lambda photo, style, seed: _by_generator(model, photo, style),
        EXACT: lambda photo, style, seed: truth_of(photo, style),
    }
    values: dict[str, dict[str, list[Measurement]]] = {}
    panels: list[tuple[str, Tensor]] = []
    for name, method in methods.items():
        progress = context.host.progress(len(context.seeds), name)
        for number, seed in enumerate(context.seeds):
            with torch.no_grad(), model.predictor.loaded():
                made = {(w, s): method(photo, s, seed).clamp(0, 1) for w, photo in photos.items() for s in styles}
            for metric, measurement in _measured(judge, photos, made).items():
                values.setdefault(name, {}).setdefault(metric, []).append(measurement)
            panels += [(f"{name}, {style}", one[0]) for (_, style), one in made.items()] if number == 0 else []
            progress.update(number + 1)
    remark = (
        f"{len(photos)} held-out photographs of {side} pixels, styles {', '.join(styles)}. The judge reads 16 crops of "
        "128 pixels of each; what it makes of the exact filter's own crops says how far it can be believed there. "
        "Tiles start from the picture's own noise, so that their repetitions are one picture and their spread is 0."
    )
    better = {"PSNR to the exact filter": "higher", "style recognised-tiny": "higher", "edge correlation": "higher"}
    return RowResult(values, {}, panels, [remark], len(photos) * len(styles), better)


def _by_generator(model: LocalModel, photo: Tensor, style: str) -> Tensor:
    region = region_of("whole picture", torch.ones(photo.shape[-2:]), style=style)
    return edit(photo, [region], GeneratorPainter(find_generator(style), model.predictor.host)).image


def _measured(
    judge: Classifier, photos: dict[str, Tensor], made: dict[tuple[str, str], Tensor]
) -> dict[str, Measurement]:
    """Means over all photographs and styles."""
    count, tiny = len(made), TINY_CLASSIFIER
    decibels = [float(psnr_of(mse(one, truth_of(photos[w], s), UNIT)).clamp(max=99)) for (w, s), one in made.items()]
    edges = [float(edge_correlation(one, photos[word])) for (word, _), one in made.items()]
    read = [recognised(judge, one, style) for (_, style), one in made.items()]
    measurements = [
        Measurement("PSNR to the exact filter", sum(decibels) / count, "", UNIT, count),
        Measurement(check_tiny("style recognised", tiny), sum(read) / count, tiny, UNIT, count),
        Measurement("edge correlation", sum(edges) / count, "", UNIT, count),
    ]
    return {measurement.name: measurement for measurement in measurements}
