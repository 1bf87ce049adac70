"""Boxes and points as users type them and other nodes give them, brought to one form: pixels x0, y0, x1, y1.

Forms of a box: four numbers (left, top, right, bottom), or an object with one of the sets of names in `BOX_FORMS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from ...engine.errors import wrong_input
from ...engine.region.region import Box, Region
from ...engine.region.regions import Regions, check_room, missing_region

# Names of a box's four numbers, and whether the last two are its size. Sources: ComfyUI's BOUNDING_BOX; the points
# editor of KJNodes (startX ...), whose boxes may be drawn in any direction; corners as detectors and VLMs name them.
BOX_FORMS = (
    (("x", "y", "width", "height"), True),
    (("x", "y", "w", "h"), True),
    (("x0", "y0", "x1", "y1"), False),
    (("x1", "y1", "x2", "y2"), False),
    (("startX", "startY", "endX", "endY"), False),
    (("left", "top", "right", "bottom"), False),
    (("xmin", "ymin", "xmax", "ymax"), False),
)
_FORMS = "; ".join(", ".join(names) for names, _ in BOX_FORMS)
_EXAMPLES = {2: "120, 80", 4: "40, 30, 200, 180"}
BoxValue = dict[str, Any] | Sequence[float]


def numbers_in(text: str, count: int, name: str) -> list[tuple[float, ...]]:
    """Points (count 2: x, y) or boxes (count 4: x0, y0, x1, y1) in a text.

    A line each ("10, 20, 30, 40"), also between semicolons, or as JSON: objects with x and y or one of `BOX_FORMS`, or
    lists of numbers, alone or in a list. RegionStyleError, naming the input, for anything else.
    """
    if not text.strip():
        return []
    read = box_corners if count == 4 else _point
    try:
        places = [read(value) for value in _values(text, count)]
    except (ValueError, TypeError, KeyError, RecursionError):
        objects = f" with the names {_FORMS}" if count == 4 else " with the names x, y"
        accepts = (
            f"{count} numbers a line, for example {_EXAMPLES[count]!r}, or JSON: lists of numbers, or objects{objects}"
        )
        raise wrong_input(name, repr(text), accepts, "Give places in pixels, counted from the top left.") from None
    return places


def _values(text: str, count: int) -> list[Any]:
    """The points or boxes of a text, not yet checked."""
    if text.lstrip()[0] not in "[{":
        lines = text.replace(";", "\n").splitlines()
        return [[float(part) for part in line.strip("()[] ").split(",")] for line in lines if line.strip()]
    values = json.loads(text)
    alone = isinstance(values, dict) or (len(values) == count and all(_is_number(value) for value in values))
    return [values] if alone else values


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _checked(numbers: Sequence[Any], count: int) -> tuple[float, ...]:
    """So many finite numbers; ValueError for others."""
    if len(numbers) != count or not all(_is_number(number) for number in numbers):
        raise ValueError(numbers)
    return tuple(float(number) for number in numbers)


def _point(value: Any) -> tuple[float, ...]:
    return _checked([value["x"], value["y"]] if isinstance(value, dict) else value, 2)


def box_corners(value: Any) -> tuple[float, ...]:
    """x0, y0, x1, y1 of a box in any of the forms; ValueError or TypeError for anything else."""
    if not isinstance(value, dict):
        return _checked(value, 4)
    for names, sized in BOX_FORMS:
        if all(name in value for name in names):
            first, second, third, fourth = _checked([value[name] for name in names], 4)
            corners = (first, second, first + third, second + fourth) if sized else (first, second, third, fourth)
            return _ordered(corners) if "startX" in names else corners
    raise ValueError(value)


def _ordered(corners: tuple[float, ...]) -> tuple[float, ...]:
    """The same box when it was drawn from another corner than the top left."""
    (left, right), (top, bottom) = sorted(corners[::2]), sorted(corners[1::2])
    return left, top, right, bottom


def _is_box(value: Any) -> bool:
    try:
        box_corners(value)
    except (ValueError, TypeError):
        return False
    return True


def boxes_per_picture(bboxes: Any, batch: int) -> list[list[BoxValue]]:
    """A connected value, ComfyUI's BOUNDING_BOX or boxes in another form, as a list of boxes per picture.

    One box or one list of boxes counts for every picture, several lists for picture by picture.
    """
    boxes = [bboxes] if isinstance(bboxes, dict) or _is_box(bboxes) else bboxes
    if not isinstance(boxes, (list, tuple)):
        raise wrong_input("bboxes", repr(bboxes), "a list of boxes", "Connect a box output.")
    listed = boxes and all(isinstance(part, (list, tuple)) and not _is_box(part) for part in boxes)
    per_picture = [list(part) for part in boxes] if listed else [list(boxes)]
    if len(per_picture) not in (1, batch):
        accepts = f"one list of boxes, or one per picture ({batch})"
        raise wrong_input("bboxes", f"{len(per_picture)} lists", accepts, "Find the boxes in the same pictures.")
    for value in (value for part in per_picture for value in part):
        if not _is_box(value):
            accepts = f"boxes of four numbers, or objects with the names {_FORMS}"
            raise wrong_input("bboxes", repr(value), accepts, "Connect a box output.")
    return per_picture * batch if len(per_picture) == 1 else per_picture


def boxes_to_regions(
    boxes: Sequence[tuple[float, ...]], bboxes: Any, phrase: str, size: tuple[int, int], batch: int
) -> Regions:
    """Typed boxes (x0, y0, x1, y1) and connected ones as regions of `batch` pictures of size `(H, W)`.

    A connected box keeps its own label and score where it has them. A picture in which a connected detector found
    nothing gets an empty region under the phrase. RegionStyleError for more boxes than masks of that size have room.
    """
    connected = boxes_per_picture(bboxes, batch) if bboxes is not None else []
    check_room(batch * len(boxes) + sum(map(len, connected)), size, "boxes")
    items = [_region(box, {}, phrase, size, image) for image in range(batch) for box in boxes]
    for image, values in enumerate(connected):
        items += [] if values or boxes else [missing_region(phrase, size, image=image)]
        for value in values:
            named = value if isinstance(value, dict) else {}
            items.append(_region(box_corners(value), named, phrase, size, image))
    return Regions(tuple(items), *size, batch)


def _region(
    corners: tuple[float, ...], named: dict[str, Any], phrase: str, size: tuple[int, int], image: int
) -> Region:
    box: Box = corners  # type: ignore[assignment]
    return Region.of_box(str(named.get("label") or phrase), box, size, score=_score(named), image=image)


def _score(box: dict[str, Any]) -> float:
    """A connected box's score; 1 where it has none."""
    score = box.get("score")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise wrong_input("bboxes", f"score {score!r}", "a number, or none", "Connect a box output.")
    return 1.0 if score is None else float(score)
