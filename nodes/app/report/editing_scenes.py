"""Scenes for editing by words: by what makes them hard (RegionRoute, its limits), and with one to three styles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from scipy.ndimage import binary_dilation
from torch import Tensor

from ...tinyworld.styles import STYLES
from ...tinyworld.world import Scene, restyle_object, scene
from ..evaluation.scenes import as_image

SMALLEST, SMALL, LARGE = 250, 1000, 1600  # pixels that can be seen of a thing
TOUCHING = 4  # pixels between things that count as adjacent
HIDDEN = 0.08  # share of a thing that others cover, from which it counts as occluded
APART = 10_000  # numbers of scenes between two repetitions


@dataclass(frozen=True)
class EditTask:
    """A held-out scene; asked: (object, style) in the order they are asked for; seed: of the noise."""

    scene: Scene
    asked: tuple[tuple[int, str], ...]
    seed: int

    @property
    def image(self) -> Tensor:
        return as_image(self.scene)

    @property
    def truth(self) -> Tensor:
        """Every object through the exact filter of its style, `[1,3,H,W]`."""
        made = self.scene
        for index, style in self.asked:
            made = restyle_object(made, index, style)
        return as_image(made)

    @property
    def masks(self) -> Tensor:
        """Of the things that are asked for, `[P,H,W]`."""
        return torch.stack([torch.from_numpy(self.scene.objects[index].mask) for index, _ in self.asked])

    @property
    def words(self) -> list[tuple[str, str]]:
        return [(self.scene.objects[index].phrase, style) for index, style in self.asked]


def area(scenery: Scene, index: int) -> float:
    return float(scenery.objects[index].mask.sum())


def easy(scenery: Scene) -> int | None:
    """A large thing that stands alone."""
    there = scenery.objects
    if len({thing.shape for thing in there}) < len(there) or touching(scenery) or occluded(scenery) is not None:
        return None
    return _first(range(len(there)), lambda at: area(scenery, at) >= LARGE)


def small(scenery: Scene) -> int | None:
    """A thing of a few cells of the latent."""
    seen = range(len(scenery.objects))
    return _first(seen, lambda at: SMALLEST <= area(scenery, at) < SMALL and scenery.objects[at].hidden < HIDDEN)


def occluded(scenery: Scene) -> int | None:
    """A thing that another covers in part."""
    seen = range(len(scenery.objects))
    return _first(seen, lambda at: scenery.objects[at].hidden >= HIDDEN and area(scenery, at) >= SMALLEST)


def adjacent(scenery: Scene) -> int | None:
    """A thing beside another that it touches, all of both to be seen."""
    if occluded(scenery) is not None or not touching(scenery):
        return None
    return _first(range(len(scenery.objects)), lambda at: area(scenery, at) >= SMALL)


def repeated(scenery: Scene) -> int | None:
    """One of two things of one shape, which only their colours tell apart."""
    shapes = [thing.shape for thing in scenery.objects]
    return _first(range(len(shapes)), lambda at: shapes.count(shapes[at]) > 1 and area(scenery, at) >= SMALL)


KINDS: dict[str, Callable[[Scene], int | None]] = {
    "easy": easy,
    "small": small,
    "occluded": occluded,
    "adjacent": adjacent,
    "repeated": repeated,
}
OF_TWO = ("occluded", "adjacent", "repeated")  # looked for among scenes of two things, where they are less rare


def touching(scenery: Scene) -> bool:
    """Whether two things of a scene are as near as `TOUCHING`."""
    masks = [thing.mask > 0.5 for thing in scenery.objects]
    near = [binary_dilation(mask, iterations=TOUCHING) for mask in masks]
    return any(bool((near[a] & masks[b]).any()) for a in range(len(masks)) for b in range(a + 1, len(masks)))


def tasks_of(kind: str, repetition: int, seed: int, count: int) -> list[EditTask]:
    """So many scenes of a kind, other ones in every repetition, the styles in turn."""
    found: list[EditTask] = []
    for scenery in _scenes(repetition, 2 if kind in OF_TWO else None):
        index = KINDS[kind](scenery)
        if index is not None:
            style = list(STYLES)[len(found) % len(STYLES)]
            found.append(EditTask(scenery, ((index, style),), seed))
        if len(found) == count:
            return found
    return found


def tasks_with(styles: int, repetition: int, seed: int, count: int) -> list[EditTask]:
    """So many scenes of which two or three things are asked for at once, each in a style of its own."""
    found: list[EditTask] = []
    for scenery in _scenes(repetition, styles):
        if all(area(scenery, at) >= SMALL for at in range(styles)):
            names = [list(STYLES)[(len(found) + at) % len(STYLES)] for at in range(styles)]
            found.append(EditTask(scenery, tuple(enumerate(names)), seed))
        if len(found) == count:
            return found
    return found


def _scenes(repetition: int, things: int | None = None, most: int = 2000) -> Iterator[Scene]:
    for number in range(repetition * APART, repetition * APART + most):
        yield scene(number, split="held-out", count=things)


def _first(places: Sequence[int] | range, fits: Callable[[int], bool]) -> int | None:
    return next((place for place in places if fits(place)), None)
