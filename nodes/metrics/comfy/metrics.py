"""Measuring over ComfyUI's tensors, and the report files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import images_of, masks_of
from ...engine.io.safe_write import kept_if_done, reserved, write_text
from ..measurement import with_json
from ..networks.networks import MetricNetworks
from ..page.drawing import draw_grid, shown
from ..pixels import mask_iou
from ..scoring import EditScore, score_edit, score_table
from ..settings import RegionalStyleSettings


def paired(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Two IMAGEs as images `[B,3,H,W]`; one source may stand for every result. Sizes must be equal."""
    source, result = images_of(before), images_of(after)
    if len(source) == 1:
        source = source.expand(len(result), -1, -1, -1)
    if source.shape != result.shape:
        got = f"before {list(before.shape)}, after {list(after.shape)}"
        accepts = "the same size, and as many or one before"
        raise wrong_input("before and after", got, accepts, "Resize or repeat one of them.")
    return source, result


def styles_of(text: str, count: int) -> list[str]:
    """One style for all, or one per line and picture."""
    styles = [line.strip() for line in text.splitlines() if line.strip()]
    if len(styles) not in (1, count):
        raise wrong_input("style", f"{len(styles)} lines", f"one, or one per picture ({count})", "Name the styles.")
    return styles * count if len(styles) == 1 else styles


def score_in_comfy(
    networks: MetricNetworks, before: Tensor, after: Tensor, mask: Tensor, style: str, settings: RegionalStyleSettings
) -> tuple[EditScore, Tensor, str]:
    """The score, its table as an IMAGE, and its JSON."""
    source, result = paired(before, after)
    styles = styles_of(style, len(result))
    with torch.inference_mode(False), torch.no_grad():
        score = score_edit(
            networks,
            result.clone(),
            source.clone(),
            masks_of(mask, result).clone(),
            styles,
            settings,
            ComfyHost().check,
        )
    return score, score_table(score, f"style: {', '.join(dict.fromkeys(styles))}"), score_json(score, styles, settings)


def score_json(score: EditScore, styles: Sequence[str], settings: RegionalStyleSettings) -> str:
    """Means, means by foreground ratio, every picture, and the options they were measured with."""
    pictures = [
        {"style": style, "foreground_ratio": ratio, "measurements": with_json({m.name: m for m in row})}
        for style, ratio, row in zip(styles, score.ratios, score.per_image, strict=True)
    ]
    report = {
        "mean": with_json({m.name: m for m in score.mean}),
        "by_foreground_ratio": {k: with_json({m.name: m for m in v}) for k, v in score.by_ratio().items()},
        "pictures": pictures,
        "settings": asdict(settings),
    }
    return json.dumps(report, indent=2)


def compare_in_comfy(images: Sequence[Tensor], labels: str, title: str, columns: int, side: int) -> Tensor:
    """A grid IMAGE: one column per input, one row per picture of the batch, labels from the lines of a text."""
    parts = [images_of(image) for image in images]
    names = _names(labels, len(parts))
    length = max(len(part) for part in parts)
    panels = [
        (names[j] if length == 1 else f"{names[j]} {i + 1}", part[i if len(part) > 1 else 0])
        for i in range(length)
        for j, part in enumerate(parts)
        if i < len(part) or len(part) == 1
    ]
    grid = draw_grid(panels, columns or len(parts), side, title, ComfyHost())
    return torch.from_numpy(grid.copy())[None].float() / 255


def _names(labels: str, count: int) -> list[str]:
    lines = [line.strip() for line in labels.splitlines() if line.strip()]
    if len(lines) > count:
        raise wrong_input("labels", f"{len(lines)} lines", f"at most {count}", "Give one line per connected image.")
    return lines + [f"image {number}" for number in range(len(lines) + 1, count + 1)]


def iou_in_comfy(mask: Tensor, truth: Tensor, threshold: float) -> tuple[float, str]:
    """Mean IoU of two MASKs, and a line per mask. `truth` is resized to `mask`; one truth may stand for all."""
    a = mask[None] if mask.ndim == 2 else mask
    canvas = torch.zeros(len(a), 3, *a.shape[-2:])
    values = mask_iou(masks_of(a, canvas), masks_of(truth, canvas), threshold)
    lines = [f"mask {i + 1}: {shown(float(v))}" for i, v in enumerate(values)]
    return float(values.mean()), "\n".join(lines)


def save_report(report: str, prefix: str, images: Tensor | None) -> list[Path]:
    """Write PREFIX_00001.json (and .html with the pictures in it) below ComfyUI's output folder; their paths."""
    import folder_paths

    from ..page.report_page import page_of

    data = _checked_json(report)
    folder, name, number, _, _ = folder_paths.get_save_image_path(prefix, folder_paths.get_output_directory())
    candidates = (Path(folder) / f"{name}_{each:05d}.json" for each in count(max(1, number)))
    free = (path for path in candidates if not path.with_suffix(".html").exists())
    pictures = [] if images is None else list(images_of(images))
    with kept_if_done(reserved(free, "filename_prefix")) as path:
        page = path.with_suffix(".html")
        write_text(page, page_of(path.stem, data, pictures), "filename_prefix")
        write_text(path, json.dumps(data, indent=2) + "\n", "filename_prefix")
    return [path, page]


def _checked_json(report: str) -> Any:
    try:
        return json.loads(report)
    except ValueError as error:
        raise wrong_input("report", repr(report[:60]), "JSON text", "Connect the report of Score Result.") from error
