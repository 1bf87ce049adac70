"""Data sets of whole-picture stylisation: PIE-Bench and LHQ (SMS)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from .samples import Sample, need, need_samples, pictures_in

PIE_SIDE = 512


def load_pie_bench(root: Path) -> list[Sample]:
    """`mapping_file.json` with `annotation_images/`: every picture with its prompts and mask."""
    place = need(root / "mapping_file.json", "PIE-Bench's mapping_file.json")
    entries = json.loads(place.read_text(encoding="utf-8"))
    samples = []
    for name in sorted(entries):
        entry = entries[name]
        image = need(root / "annotation_images" / entry["image_path"], "the pictures of annotation_images")
        prompt = entry["editing_prompt"].replace("[", "").replace("]", "")
        mask = partial(pie_mask, entry["mask"])
        samples.append(Sample(name, image, mask, prompt=prompt, subset=f"type {entry['editing_type_id']}"))
    return need_samples(samples, root, "entries in mapping_file.json")


def pie_mask(pairs: Sequence[int], side: int = PIE_SIDE) -> np.ndarray:
    """`[side,side]` of pairs (start, length) along the rows. The frame belongs to the mask, as in the benchmark's own
    program, which does not trust the annotation there."""
    flat = np.zeros(side * side, dtype=np.float32)
    for start, length in zip(pairs[::2], pairs[1::2], strict=True):
        flat[start : start + length] = 1
    mask = flat.reshape(side, side)
    mask[[0, -1]] = 1
    mask[:, [0, -1]] = 1
    return mask


def load_lhq(root: Path) -> list[Sample]:
    """Every picture below the folder (`lhq_256`, `LHQ1024_jpg`, ...): the 1,000 that SMS held out are not published."""
    need(root, "a folder of LHQ's pictures")
    return need_samples([Sample(path.stem, path) for path in pictures_in(root)], root, "pictures")
