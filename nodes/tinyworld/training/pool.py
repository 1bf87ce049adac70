"""A pool of rendered scenes on disk, so that rendering never competes with training.

Pictures and masks are memory mapped arrays of bytes; words, boxes and backgrounds are one JSON file. A pool that
was only partly written is written again; a complete one is reused.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..world import SIZE, Scene, SceneObject, scene

CHUNK = 250
MOST_OBJECTS = 3


@dataclass
class Pool:
    """images `[N,128,128,3]` and masks `[N,3,128,128]`, both uint8; facts: one dict per scene."""

    images: np.ndarray
    masks: np.ndarray
    facts: list[dict]

    def __len__(self) -> int:
        return len(self.facts)

    def scene(self, index: int) -> Scene:
        """The scene as the world made it, up to rounding to bytes."""
        fact = self.facts[index]
        things = tuple(
            SceneObject(shape, color, self.masks[index, i].astype(np.float32) / 255, tuple(box))
            for i, (shape, color, box) in enumerate(fact["objects"])
        )
        return Scene(self.images[index].astype(np.float32) / 255, things, fact["background"])


def lone_objects(facts: list[dict]) -> list[int]:
    """Numbers of the scenes with one object."""
    return [number for number, fact in enumerate(facts) if len(fact["objects"]) == 1]


def _render(job: tuple[str, int, int]) -> list[dict]:
    folder, start, count = job
    images = np.load(Path(folder) / "images.npy", mmap_mode="r+")
    masks = np.load(Path(folder) / "masks.npy", mmap_mode="r+")
    facts = []
    for index in range(start, start + count):
        rendered = scene(index)
        images[index] = np.round(rendered.image * 255)
        for i, thing in enumerate(rendered.objects):
            masks[index, i] = np.round(thing.mask * 255)
        facts.append(
            {"background": rendered.background, "objects": [[t.shape, t.color, list(t.box)] for t in rendered.objects]}
        )
    return facts


def _create(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, SIZE, SIZE, 3)).flush()
    np.lib.format.open_memmap(folder / "masks.npy", "w+", np.uint8, (count, MOST_OBJECTS, SIZE, SIZE)).flush()
    jobs = [(str(folder), start, min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as workers:
        facts = [fact for part in workers.map(_render, jobs) for fact in part]
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def open_pool(folder: Path, count: int) -> Pool:
    """The pool of the training seeds 0..count-1 in `folder`, rendered now unless it is there already."""
    done = folder / "facts.json"
    if not done.exists() or len(json.loads(done.read_text(encoding="utf-8"))) < count:
        done.unlink(missing_ok=True)
        _create(folder, count)
    facts = json.loads(done.read_text(encoding="utf-8"))
    return Pool(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "masks.npy", mmap_mode="r"), facts)
