"""`regionstyle evaluate masks`, second table: is what is not there left unfound, and what is there found?

On held-out scenes of the tiny world: a thing of a colour and a shape that the scene lacks, a mixture (the colour of one
of its things, the shape of another), a thing that is there, its shape alone, and its colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...engine.host.base import Host, LocalHost
from ...grounding.finders.attention_finder import ground_by_attention
from ...metrics.pixels import mask_iou
from ...tinyworld.bundled import load_predictor
from ...tinyworld.shapes import SHAPES
from ...tinyworld.world import COLORS, Scene, SceneObject
from .masks import SEEN, held_out_scene
from .scenes import as_image

ABSENT, MIXED = "absent thing found", "mixture of two things found"
PRESENT, SHAPE, COLOUR = "present thing kept", "shape alone, right thing", "colour alone, right thing"
# Share of phrases: at most, or at least.
MARKS = {ABSENT: ("at most", 0.03), MIXED: ("at most", 0.03), PRESENT: ("at least", 0.97),
         SHAPE: ("at least", 0.92), COLOUR: ("at least", 0.92)}  # fmt: skip
RIGHT = 0.5  # intersection over union from which a mask is that of the right thing


@dataclass(frozen=True)
class Question:
    """row of the table, the phrase, and the thing that it means (None: there is none)."""

    row: str
    phrase: str
    thing: SceneObject | None = None


def questions(made: Scene, number: int) -> Iterator[Question]:
    """What is asked of a held-out scene; number: its seed, which chooses the words."""
    random = np.random.default_rng(number)
    seen = [thing for thing in made.objects if (thing.mask > 0.5).sum() >= SEEN]
    colors, shapes = ({getattr(thing, name) for thing in made.objects} for name in ("color", "shape"))
    absent = [random.choice([word for word in words if word not in own])
              for words, own in ((list(COLORS), colors), (list(SHAPES), shapes))]  # fmt: skip
    yield Question(ABSENT, " ".join(absent))
    there = {thing.phrase for thing in made.objects}
    mixed = sorted(phrase for c in colors for s in shapes if (phrase := f"{c} {s}") not in there)
    if mixed:
        yield Question(MIXED, str(random.choice(mixed)))
    if seen:
        thing = seen[number % len(seen)]
        yield Question(PRESENT, thing.phrase, thing)
        yield Question(COLOUR, f"{thing.color} object", thing)
        if sum(other.shape == thing.shape for other in made.objects) == 1:
            yield Question(SHAPE, thing.shape, thing)


def _answered(predictor: Any, made: Scene, question: Question) -> bool:
    """Whether the thing was found; for a shape or a colour alone, whether it was the right one."""
    grounding = ground_by_attention(predictor, as_image(made), question.phrase)
    if question.thing is None or question.row == PRESENT:
        return grounding.found
    truth = torch.from_numpy(question.thing.mask)[None]
    return grounding.found and float(mask_iou(grounding.mask[None].cpu(), truth)) >= RIGHT


def evaluate_presence(host: Host, scenes: int = 500) -> dict[str, Any]:
    """Per row the number of phrases and the share that was found (or right); progress is reported scene by scene."""
    quiet = LocalHost(host.device)
    predictor, progress = load_predictor(quiet), host.progress(scenes, "phrases")
    answers: dict[str, list[bool]] = {row: [] for row in MARKS}
    with torch.no_grad(), predictor.loaded():
        for number in range(scenes):
            made = held_out_scene(number)
            for question in questions(made, number):
                answers[question.row].append(_answered(predictor, made, question))
            progress.update(number + 1)
    rows = {row: {"phrases": len(given), "share": float(np.mean(given)) if given else None}
            for row, given in answers.items()}  # fmt: skip
    return {"scenes": scenes, "marks": {row: list(mark) for row, mark in MARKS.items()}, "rows": rows}


def presence_table(numbers: dict[str, Any]) -> str:
    """The numbers as lines of text, each beside its mark."""
    width = max(map(len, MARKS))
    lines = [f"share of phrases, {numbers['scenes']} held-out scenes"]
    for row, cell in numbers["rows"].items():
        share = "-" if cell["share"] is None else f"{cell['share']:.1%}"
        bound, mark = numbers["marks"][row]
        lines.append(f"{row:<{width}}  {share:>6} ({cell['phrases']})  {bound} {mark:.0%}")
    return "\n".join([*lines, ""])
