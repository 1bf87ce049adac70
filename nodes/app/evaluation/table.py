"""The numbers of `regionstyle evaluate tinyworld` as lines of text, each beside its mark where it has one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What is measured, its part and key among the numbers, its unit, what it shall reach (None: no mark), its count's key.
_ROWS: tuple[tuple[str, str, str, str, float | None, str], ...] = (
    ("autoencoder, photographs of a cat, PSNR", "autoencoder", "psnr_cat", "dB", 24, "crops_per_photograph"),
    ("autoencoder, photographs of coffee, PSNR", "autoencoder", "psnr_coffee", "dB", 24, "crops_per_photograph"),
    ("autoencoder, scenes, PSNR", "autoencoder", "psnr_scenes", "dB", 24, "scenes"),
    ("caption retrieval, best of 32", "clip", "top1_of_32", "%", 0.95, "captions"),
    ("classifier, shape", "classifier", "shape", "%", None, "crops"),
    ("classifier, colour", "classifier", "colour", "%", None, "crops"),
    ("classifier, style", "classifier", "style", "%", None, "crops"),
    ("classifier, shape and colour of whole exact pictures", "classifier", "whole", "%", None, "whole_pictures"),
    ("generated shape right", "generation", "right_shape", "%", None, "pictures"),
    ("generated colour right", "generation", "right_colour", "%", None, "pictures"),
    ("generated shape and colour right", "generation", "right_both", "%", 0.9, "pictures"),
    ("attention of object words, plain, mean IoU", "attention", "mean_iou", "", 0.5, "scenes"),
    ("attention of object words, log-odds, mean IoU", "attention", "mean_iou_logodds", "", 0.6, "scenes"),
    ("things found by attention", "attention", "found", "%", None, "scenes"),
    ("restyled region recognised as the style", "restyle", "recognised", "%", 0.9, "scenes"),
    ("restyled region nearer to the truth", "restyle", "nearer_to_truth", "%", 0.5, "scenes"),
    ("restyled region, PSNR of the input", "restyle", "psnr_input", "dB", None, "scenes"),
    ("restyled region, PSNR of the result", "restyle", "psnr_result", "dB", None, "scenes"),
    ("background equal bit for bit", "restyle", "background_equal", "all", 1, "scenes"),
)


def table(numbers: Mapping[str, Any]) -> str:
    """A line per measurement (value, mark, count), then one per style, then the photographs nobody trained on."""
    rows = [
        (what, _shown(numbers[part][key], unit), "" if mark is None else _shown(mark, unit), str(numbers[part][count]))
        for what, part, key, unit, mark, count in _ROWS
    ]
    rows += [
        (f"  {style}: recognised; nearer to the truth", _pair(numbers_of_style), "", str(numbers_of_style["scenes"]))
        for style, numbers_of_style in numbers["restyle"]["by_style"].items()
    ]
    head = ("measured on scenes and photographs nobody trained on", "value", "mark", "count")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in (head, *rows)]
    return "\n".join([*lines, f"held-out photographs: {', '.join(numbers['held_out_photographs'])}", ""])


def _pair(numbers_of_style: Mapping[str, Any]) -> str:
    return f"{_shown(numbers_of_style['recognised'], '%')}; {_shown(numbers_of_style['nearer_to_truth'], '%')}"


def _shown(value: float | bool, unit: str) -> str:
    if unit == "all":
        return "yes" if value else "NO"
    return f"{100 * value:.1f} %" if unit == "%" else f"{value:.2f} {unit}".rstrip()
