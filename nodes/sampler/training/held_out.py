"""Pairs held out of a training: which ones, and pictures of what the expert makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ...engine.errors import wrong_input
from ...engine.io.curves import drawn
from ...engine.predictor.base import NoisePredictor
from ...engine.training.run import Preview

if TYPE_CHECKING:
    from .examples import Example, PairExamples
    from .settings import ExpertTrainSettings

LEVELS = (125, 375, 625, 875)  # timesteps at which the loss on a held-out pair is measured
SHOWN = 4  # pairs that a picture shows
REDRAWN = 0.6  # how much of the picture before is redrawn by a network that is not shown it
PANEL, CAPTION, GAP = 256, 22, 6  # pixels: the longest side of a picture, the height of its line, between two
WORDS, PAPER = (40, 40, 46), "white"


def check_count(count: int, different: int) -> None:
    """RegionStyleError where holding out so many of the different pictures leaves none to train on."""
    if count >= different:
        got, accepts = f"{count} of {different} different pairs of pictures", f"0 to {different - 1}"
        raise wrong_input("validation", got, accepts, "Leave one or more to train on.")


def check_sources(count: int, given: int) -> None:
    """RegionStyleError where pairs are to be held out, and others were given for the same."""
    if count and given:
        got = f"{count} beside {given} pairs given to be held out"
        raise wrong_input("validation", got, "one of the two", "Set validation to 0, or leave those pairs out.")


def split(examples: Sequence[Example], count: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Those to train on, and held out each once, by what they are and the seed: not by their order, nor by the others.

    Examples of the same pictures are on one side together, whatever their prompts; count: of different pictures.
    RegionStyleError where none would be left.
    """
    different = {example.id: example for example in examples}
    places: dict[str, bytes] = {}  # picture -> the first place that one of its examples has in the order of the draw
    for one in different.values():
        place = hashlib.sha256(f"{seed} {one.id}".encode()).digest()
        places[one.picture] = min(place, places.get(one.picture, place))
    check_count(count, len(places))
    drawn = {picture: at for at, picture in enumerate(sorted(places, key=places.__getitem__)[:count])}
    held = [one for one in different.values() if one.picture in drawn]
    held.sort(key=lambda one: (drawn[one.picture], one.id))
    return [one for one in examples if one.picture not in drawn], held


def apart(examples: Sequence[Example], held: Sequence[Example]) -> list[Example]:
    """Held-out examples of their own, each once. RegionStyleError for one whose pictures are trained on as well."""
    trained, different = {one.picture for one in examples}, {one.id: one for one in held}
    if both := [one for one in different.values() if one.picture in trained]:
        got = f"{len(both)} of {len(different)} pairs whose pictures are trained on as well, such as {both[0].prompt!r}"
        raise wrong_input("validation pairs", got, "others", "Leave them out of one of the two lists.")
    return list(different.values())


class Comparison:
    """Before, wanted and made of the first held-out pairs, from the same noise each time."""

    def __init__(self, predictor: NoisePredictor, examples: PairExamples, settings: ExpertTrainSettings) -> None:
        self.predictor, self.texts, self.settings = predictor, examples.texts, settings
        self.examples = examples.held[:SHOWN]
        self._given: list[Tensor] = []  # before and wanted of each `[2,3,H,W]`, decoded once

    def draw(self) -> Tensor:
        """`[3,H,W]` in 0..1, on the CPU: a row for each pair, its prompt above it; can be cancelled at every step."""
        if not self._given:
            with torch.no_grad():
                self._given = [self._decoded(torch.stack([one.source, one.latent])) for one in self.examples]
        made = [
            torch.cat([given, self._made(one)[None]]) for one, given in zip(self.examples, self._given, strict=True)
        ]
        return rows_of([one.prompt for one in self.examples], made)

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.predictor.decode(latents.to(self.predictor.host.device)).float().cpu()

    def _made(self, example: Example) -> Tensor:
        """What the expert makes of the picture before `[3,H,W]`: from noise beside it, or by redrawing it."""
        shown = self.settings.source == "shown"
        texts, side = (self.texts[example.prompt], self.texts[""]), example.latent.shape[-1]
        start, strength = (None, 1.0) if shown else (example.source, REDRAWN)
        with self.predictor.showing(example.source[None]) if shown else nullcontext():
            return Preview(self.predictor, *texts, side, self.settings.seed, start, strength).draw()


def rows_of(prompts: Sequence[str], pictures: Sequence[Tensor]) -> Tensor:
    """Rows of pictures `[N,3,H,W]` side by side, a line of text above each: `[3,H,W]` in 0..1."""
    from PIL import Image, ImageDraw, ImageFont

    side = min(PANEL, max(pictures[0].shape[-2:]))
    size = (len(pictures[0]) * (side + GAP) + GAP, len(pictures) * (side + CAPTION + GAP) + CAPTION)
    canvas, font = Image.new("RGB", size, PAPER), ImageFont.load_default(13)
    draw = ImageDraw.Draw(canvas)
    for column, name in enumerate(("before", "wanted", "made")):
        draw.text((GAP + column * (side + GAP), 3), name, WORDS, font)
    for row, prompt in enumerate(prompts):
        top = CAPTION + row * (side + CAPTION + GAP)
        draw.text((GAP, top + 2), _fitting(draw, prompt, font, size[0] - 2 * GAP), WORDS, font)
    sheet = drawn(canvas)
    for row, each in enumerate(pictures):
        top = CAPTION + row * (side + CAPTION + GAP) + CAPTION
        small = F.interpolate(each, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
        for column, picture in enumerate(small):
            left = GAP + column * (side + GAP)
            sheet[:, top : top + side, left : left + side] = picture
    return sheet


def _fitting(draw: object, text: str, font: object, width: int) -> str:
    """One line, cut short with an ellipsis where it is wider."""
    line = " ".join(text.split())
    while len(line) > 1 and draw.textlength(line, font) > width:  # type: ignore[attr-defined]
        line = line.rstrip("\u2026")[:-1] + "\u2026"
    return line
