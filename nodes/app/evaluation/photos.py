"""`regionstyle evaluate photos`: the tiny world's styles on whole photographs that nobody trained on, at full size.

The truth is the style's exact filter. Beside the tiles stand the untouched photograph and one native crop, enlarged.
A judge that was trained apart, on cut-outs of other photographs too, reads the style of 16 crops of 128 pixels; how it
reads the exact filter's own crops says how far it can be believed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.base import Host, LocalHost
from ...engine.region.regions import region_of
from ...metrics.pixels import psnr
from ...metrics.structure import edge_correlation
from ...tinyworld.backgrounds import HELD_OUT_PHOTOS, photograph_path
from ...tinyworld.classifier import Classifier, load_photo_classifier
from ...tinyworld.styles import apply_style
from ...tinyworld.world import SIZE
from ..edit import EditSettings, edit
from ..local_model import TINY, LocalModel, open_model
from ..painters.expert import ExpertPainter
from ..pictures import SHEET_SIDE, save_image, sheet, stacked

if TYPE_CHECKING:
    from PIL.Image import Image

Numbers = dict[str, Any]
SIDES = (512, 1024)  # longer side in pixels
ACROSS = 4  # crops in a row, and rows of them
RECOGNISED = 0.9
GAIN = 3.0  # dB over the native crop, on average


def evaluate_photos(
    host: Host, styles: Sequence[str], sides: Iterable[int] = SIDES, pictures: dict[str, Tensor] | None = None
) -> Numbers:
    """A row for every held-out photograph, side and style. pictures: is given every result, by "cat 512 mosaic"."""
    model, judge = open_model(TINY, LocalHost(host.device), styles=styles), load_photo_classifier()
    asked = [(word, side, style) for side in sides for word in HELD_OUT_PHOTOS for style in styles]
    progress, rows = host.progress(len(asked), "photographs"), []
    with torch.no_grad(), model.predictor.loaded():
        for number, (word, side, style) in enumerate(asked):
            row, result = _row(model, judge, held_out_photo(word, side), style)
            rows.append({"photograph": word, "side": side, "style": style, **row})
            if pictures is not None:
                pictures[f"{word} {side} {style}"] = result
            progress.update(number + 1, result[0])
    return {"rows": rows, **summary(rows)}


def held_out_photo(word: str, side: int) -> Tensor:
    """A photograph nobody trained on, its longer side at `side` pixels, `[1,3,H,W]`."""
    from PIL import Image as files

    photo = files.open(photograph_path(HELD_OUT_PHOTOS[word])).convert("RGB")
    size = (round(photo.width * side / max(photo.size)), round(photo.height * side / max(photo.size)))
    if min(size) < SIZE:
        least = math.ceil(SIZE * max(photo.size) / min(photo.size))
        remedy = f"Its shorter side must hold a crop of {SIZE} pixels."
        raise wrong_input("--side", side, f"{least} pixels or more for {word!r}", remedy)
    sized = photo.resize(size, files.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(sized, dtype=np.float32) / 255).permute(2, 0, 1)[None].contiguous()


def _row(model: LocalModel, judge: Classifier, photo: Tensor, style: str) -> tuple[Numbers, Tensor]:
    truth = truth_of(photo, style)
    began = time.monotonic()
    full = painted(model, photo, style, "auto")
    seconds = time.monotonic() - began
    native = painted(model, photo, style, "native")
    numbers = {
        "recognised": recognised(judge, full, style),
        "recognised_exact": recognised(judge, truth, style),
        "recognised_native": recognised(judge, native, style),
        "psnr_photograph": _decibels(photo, truth),
        "psnr_native": _decibels(native, truth),
        "psnr_full": _decibels(full, truth),
        "edges": round(float(edge_correlation(full, photo)), 3),
        "edges_native": round(float(edge_correlation(native, photo)), 3),
        "edges_exact": round(float(edge_correlation(truth, photo)), 3),
        "seconds": round(seconds, 1),
    }
    return numbers, full


def truth_of(photo: Tensor, style: str) -> Tensor:
    """The exact filter of a photograph `[1,3,H,W]`."""
    return torch.from_numpy(apply_style(photo[0].permute(1, 2, 0).numpy(), style)).permute(2, 0, 1)[None]


def painted(model: LocalModel, photo: Tensor, style: str, detail: str, seed: int = 0) -> Tensor:
    """A whole photograph in a style by its expert."""
    region = region_of("whole picture", torch.ones(photo.shape[-2:]), style=style)
    painter = ExpertPainter(model.predictor, model.usual, tiled=model.usual_in_tiles)
    return edit(photo, [region], painter, EditSettings(seed=seed, detail=detail)).image.clamp(0, 1)


def recognised(judge: Classifier, image: Tensor, style: str) -> float:
    """The share of 16 crops of 128 pixels, evenly over a picture, in which the judge reads the style."""
    height, width = image.shape[-2:]
    tops, lefts = (np.linspace(0, length - SIZE, ACROSS).round().astype(int) for length in (height, width))
    crops = torch.cat([image[..., top : top + SIZE, left : left + SIZE] for top in tops for left in lefts])
    return float(np.mean([read_as["style"] == style for read_as in judge.read(crops)]))


def _decibels(image: Tensor, truth: Tensor) -> float:
    return round(float(psnr(image, truth)), 2)


def summary(rows: Sequence[Mapping[str, Any]]) -> Numbers:
    """Over all rows: shares and means, and whether every style is nearer to its filter than the photograph was."""
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if isinstance(rows[0][key], float)}
    return {
        "recognised": round(mean["recognised"], 3),
        "recognised_exact": round(mean["recognised_exact"], 3),
        "nearer_than_photograph": all(row["psnr_full"] > row["psnr_photograph"] for row in rows),
        "gain_over_native": round(mean["psnr_full"] - mean["psnr_native"], 2),
        "edges": round(mean["edges"], 3),
        "edges_exact": round(mean["edges_exact"], 3),
    }


def photo_table(numbers: Mapping[str, Any]) -> str:
    """A line per photograph, side and style, and one that sums up beside the marks."""
    head = "photograph  side  style          PSNR photo  native   full   read  exact's   edges  exact's   seconds"
    lines = [
        f"{row['photograph']:10}  {row['side']:4}  {row['style']:13}  {row['psnr_photograph']:10.1f}  "
        f"{row['psnr_native']:6.1f}  {row['psnr_full']:5.1f}  {row['recognised']:5.0%}  "
        f"{row['recognised_exact']:7.0%}  {row['edges']:6.2f}  {row['edges_exact']:7.2f}  {row['seconds']:8.1f}"
        for row in numbers["rows"]
    ]
    nearer = "yes" if numbers["nearer_than_photograph"] else "NO"
    marks = (
        f"nearer to the exact filter than the photograph, every row: {nearer}",
        f"over the native crop: {numbers['gain_over_native']:+.1f} dB (mark {GAIN:+.0f})",
        f"recognised: {numbers['recognised']:.0%} (mark {RECOGNISED:.0%}; the exact filter's own crops: "
        f"{numbers['recognised_exact']:.0%})",
        f"edge correlation with the photograph: {numbers['edges']:.2f} (the exact filter's own: "
        f"{numbers['edges_exact']:.2f})",
    )
    return "\n".join([head, *lines, *marks, ""])


def save_pictures(pictures: Mapping[str, Tensor], folder: Path) -> None:
    """Every result as a PNG, and all of one side on a sheet, photos-SIDE.jpg."""
    for name, picture in pictures.items():
        save_image(picture, folder / f"{name.replace(' ', '-')}.png")
    for side in dict.fromkeys(int(name.split()[1]) for name in pictures):
        photo_sheet(pictures, side).save(folder / f"photos-{side}.jpg", quality=82)


def photo_sheet(pictures: Mapping[str, Tensor], side: int) -> Image:
    """Every photograph of a side and its results under their styles, four in a row."""
    rows = []
    for word in dict.fromkeys(name.split()[0] for name in pictures):
        begin = f"{word} {side} "
        made = {name.removeprefix(begin): one for name, one in pictures.items() if name.startswith(begin)}
        panels = list({"photograph": held_out_photo(word, side), **made}.items())
        rows += [_row_of_sheet(dict(panels[at : at + ACROSS])) for at in range(0, len(panels), ACROSS)]
    return stacked(rows)


def _row_of_sheet(panels: Mapping[str, Tensor]) -> Image:
    """A row without the room for a title above it and for square pictures."""
    row = sheet(panels, "")
    shape = next(iter(panels.values())).shape
    used = round(SHEET_SIDE * min(1, shape[-2] / shape[-1]))
    return row.crop((0, 44, row.width, 74 + used + 4))
