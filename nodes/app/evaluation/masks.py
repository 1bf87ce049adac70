"""`regionstyle evaluate masks`: how near the masks come to the truth, on scenes of the tiny world that nobody saw.

Three questions, each answered per phrase by the mean intersection over union (IoU) with the exact visible mask:
what the tiny Segment Anything makes of the exact box or of one exact point; what the whole path makes of a sentence
(words -> attention -> boxes -> masks); and how it fares where two things of one shape are told apart by colour, or by
position. Kinds overlap: a thing may be small and touch another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.host.base import Host, LocalHost
from ...engine.region.inner_points import inner_point
from ...grounding.finders.sam import SamEmbedding, SamNetwork, SamPrompt, SamSegmenter, encode
from ...grounding.finders.text_grounding import AttentionSource, look_at_all, segment_all
from ...grounding.language.prompt import parse_regions
from ...metrics.pixels import mask_iou
from ...tinyworld.bundled import load_predictor
from ...tinyworld.tiny_sam import load_tiny_sam
from ...tinyworld.world import SIZE, Scene, SceneObject, scene
from .scenes import as_image

SMALL = 0.04  # share of the picture below which a thing counts as small
HIDDEN = 0.05  # share of a thing that others cover from which it counts as occluded
NEAR = 2  # pixels between two things from which they count as touching
SEEN = 24  # pixels a thing must show to be asked for
KINDS = ("all", "small", "occluded", "touching", "none of these")
BOX, POINT = "SAM, exact box", "SAM, exact point"
SENTENCE, ALONE = "sentence, all things named", "sentence, one thing named"
BY_COLOUR, BY_POSITION = "one shape, told apart by colour", "one shape, told apart by position"
MARKS = {BOX: 0.75, POINT: 0.75, SENTENCE: 0.75, ALONE: 0.75, BY_COLOUR: 0.6, BY_POSITION: 0.6}


@dataclass(frozen=True)
class Measured:
    """One thing's IoU in one row of the table, with the kinds it belongs to."""

    row: str
    kinds: tuple[str, ...]
    iou: float


def held_out_scene(number: int) -> Scene:
    """A held-out scene: two things in the even ones, three in the odd ones."""
    return scene(number, split="held-out", count=2 + number % 2)


def kinds_of(scene: Scene, index: int) -> tuple[str, ...]:
    """The kinds, of `KINDS`, that a thing of a scene belongs to."""
    thing = scene.objects[index]
    others = [other.mask > 0.5 for other_index, other in enumerate(scene.objects) if other_index != index]
    holds = {
        "small": float(thing.mask.sum()) < SMALL * SIZE**2,
        "occluded": thing.hidden >= HIDDEN,
        "touching": any(_touch(thing.mask > 0.5, other) for other in others),
    }
    return ("all", *([kind for kind, held in holds.items() if held] or ["none of these"]))


def _touch(a: np.ndarray, b: np.ndarray) -> bool:
    from scipy.ndimage import binary_dilation

    return bool((binary_dilation(a, iterations=NEAR) & b).any())


def twins(scene: Scene) -> tuple[int, int] | None:
    """The two things of one shape, where a scene has exactly two that show."""
    shapes = [thing.shape for thing in scene.objects]
    pair = [index for index, shape in enumerate(shapes) if shapes.count(shape) == 2]
    return (pair[0], pair[1]) if len(pair) == 2 and all(_seen(scene.objects[index]) for index in pair) else None


def _seen(thing: SceneObject) -> bool:
    return int((thing.mask > 0.5).sum()) >= SEEN


def placed_phrases(scene: Scene, pair: tuple[int, int]) -> list[tuple[int, str]]:
    """The two of one shape by their places: along the axis on which they are farther apart."""
    centers = {index: ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for index in pair for b in [scene.objects[index].box]}
    apart = [abs(centers[pair[0]][axis] - centers[pair[1]][axis]) for axis in (0, 1)]
    axis = int(apart[1] > apart[0])
    first, second = sorted(pair, key=lambda index: centers[index][axis])
    words = (("leftmost", "rightmost"), ("topmost", "lowest"))[axis]
    named = zip((first, second), words, strict=True)
    return [(index, f"{word} {scene.objects[index].shape}") for index, word in named]


def _iou(mask: Tensor, thing: SceneObject) -> float:
    return float(mask_iou(mask[None], torch.from_numpy(thing.mask)[None]))


class MaskEvaluation:
    """Measures scene by scene. Use inside the predictor's `loaded()`."""

    def __init__(self, predictor: Any, network: SamNetwork, host: Host) -> None:
        """host: for the networks' own loops; pass one that reports nothing."""
        self._predictor, self._network, self._host = predictor, network, host

    def measure(self, scene: Scene, number: int) -> list[Measured]:
        """Every row of one scene; number: which of its things is the one that is named alone."""
        image = as_image(scene)
        embedding = encode(self._network, image, self._host)
        seen = [index for index, thing in enumerate(scene.objects) if _seen(thing)]
        if not seen:
            return []
        named = [(index, scene.objects[index].phrase) for index in seen]
        together = self._grounded(image, embedding, named)
        rows = {**self._prompted(scene, seen, embedding), SENTENCE: together}
        rows[ALONE] = self._grounded(image, embedding, [named[number % len(named)]])
        if pair := twins(scene):
            rows[BY_COLOUR] = {index: together[index] for index in pair}
            rows[BY_POSITION] = self._grounded(image, embedding, placed_phrases(scene, pair))
        return [
            Measured(row, kinds_of(scene, index), _iou(mask, scene.objects[index]))
            for row, masks in rows.items()
            for index, mask in masks.items()
        ]

    def _prompted(self, scene: Scene, seen: Sequence[int], embedding: SamEmbedding) -> dict[str, dict[int, Tensor]]:
        """The masks SAM gives for the exact boxes and points."""
        segmenter, things = SamSegmenter(embedding, self._host), scene.objects
        boxes = {index: segmenter.ask(0, SamPrompt(things[index].box)).soft for index in seen}
        points = {
            index: segmenter.ask(0, SamPrompt(inside=(inner_point(torch.from_numpy(things[index].mask)),))).soft
            for index in seen
        }
        return {BOX: boxes, POINT: points}

    def _grounded(self, image: Tensor, embedding: SamEmbedding, named: Sequence[tuple[int, str]]) -> dict[int, Tensor]:
        """The masks of the things named in one sentence, `(index, phrase)`."""
        sentence = parse_regions(", ".join(f"the {phrase}" for _, phrase in named))
        source = AttentionSource(self._predictor, sentence)
        regions = segment_all(look_at_all(image, source, self._host), embedding, self._host).regions
        return {index: regions.of_phrase(phrase).items[0].mask for index, phrase in named}


def evaluate_masks(host: Host, scenes: int = 500) -> dict[str, Any]:
    """The table, by row and kind: mean IoU and the number of phrases; progress is reported scene by scene."""
    quiet = LocalHost(host.device)
    predictor, network = load_predictor(quiet), SamNetwork(load_tiny_sam(), "tinyworld/sam")
    evaluation, measured = MaskEvaluation(predictor, network, quiet), []
    progress = host.progress(scenes, "scenes")
    with torch.no_grad(), predictor.loaded():
        for number in range(scenes):
            measured += evaluation.measure(held_out_scene(number), number)
            progress.update(number + 1)
    rows = {row: by_kind([thing for thing in measured if thing.row == row]) for row in MARKS}
    return {"scenes": scenes, "marks": MARKS, "rows": rows}


def by_kind(measured: Sequence[Measured]) -> dict[str, dict[str, float | int | None]]:
    """Per kind the number of phrases and their mean IoU, None where there are none."""
    values = {kind: [thing.iou for thing in measured if kind in thing.kinds] for kind in KINDS}
    return {
        kind: {"phrases": len(part), "mean_iou": round(float(np.mean(part)), 3) if part else None}
        for kind, part in values.items()
    }


def table(numbers: dict[str, Any]) -> str:
    """The numbers as lines of text: a row per question, a column per kind, the mark at the end."""
    width = max(map(len, MARKS))
    head = "  ".join([" " * width, *(f"{kind:>14}" for kind in KINDS), "mark"])
    lines = [
        "  ".join([f"{row:<{width}}", *(f"{_cell(kinds[kind]):>14}" for kind in KINDS), f"{MARKS[row]:.2f}"])
        for row, kinds in numbers["rows"].items()
    ]
    return "\n".join([f"mean IoU per phrase (phrases), {numbers['scenes']} held-out scenes", head, *lines, ""])


def _cell(measured: dict[str, Any]) -> str:
    return "-" if measured["mean_iou"] is None else f"{measured['mean_iou']:.3f} ({measured['phrases']})"
