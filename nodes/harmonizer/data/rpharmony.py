"""A data set in RPHarmony's layout, made by Random Poisson Blending: resumable, the same for the same seed.

    OUT/SUBSET/real_images/IMAGE.jpg  masks/IMAGE_MASK.png  composite_images/IMAGE_MASK_K.jpg
    OUT/train.jsonl, test.jsonl       {"file_name": "SUBSET/composite_images/IMAGE_MASK_K.jpg", "text": ""}
    OUT/train.txt, test.txt           the same paths
    OUT/manifest.json                 settings, what each file was made from, what was left out and why

IMAGE is `r`, a letter for the subset (d: R-DUTS, as the authors' evaluation tells them apart) and a number. The truth
is what the JPEG file of the real picture holds, and composites are made of it.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.io.safe_write import replacing, write_text
from .random_poisson import FEWEST, random_poisson_blend
from .sources import Source

QUALITY = 95
VERSION = 1
SPARE = 4  # donors that are drawn for a composite, of which the first that can be read is used


@dataclass(frozen=True)
class DataSettings:
    """strengths: drawn evenly between both; variants: composites per mask; test: share of the pictures; largest: pixels
    of the longer side."""

    subset: str = "R-Own"
    low: float = 0.75
    high: float = 0.75
    variants: int = 1
    test: float = 0.1
    largest: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        name = self.subset
        if not name.startswith("R-") or not all(c.isalnum() or c == "-" for c in name) or len(name) < 3:
            raise wrong_input("--subset", repr(name), "R- and letters or digits, as R-DUTS", "Choose another name.")
        if not 0 <= self.low <= self.high <= 1:
            got = f"{self.low:g} to {self.high:g}"
            raise wrong_input("strength", got, "two rising numbers in 0..1", "See --strength-from and --strength-to.")

    @property
    def prefix(self) -> str:
        """The first two letters of file names."""
        letter = self.subset[2].lower()
        return f"r{letter if self.subset == 'R-DUTS' or letter != 'd' else 'x'}"


@dataclass(frozen=True)
class Task:
    """One picture's composites. Plain values: it is sent to other processes and machines."""

    number: int
    source: Source
    donors: tuple[tuple[str, ...], ...]  # for every composite, in the order they are tried
    output: str
    settings: DataSettings

    @property
    def name(self) -> str:
        return f"{self.settings.prefix}{self.number:06d}"


@dataclass(frozen=True)
class Made:
    """What became of a task: composites below the data set's folder, and what was left out -> why."""

    number: int
    composites: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


def tasks(sources: Sequence[Source], output: Path, settings: DataSettings) -> list[Task]:
    """A task for every picture. Its donors are other pictures of the corpus, drawn by seed and number; where one cannot
    be read, the next is taken."""
    made = []
    for number, source in enumerate(sources):
        random = np.random.default_rng([settings.seed, number])
        count = len(source.masks) * settings.variants
        others = [index for index in range(len(sources)) if index != number] or [number]
        drawn = [random.choice(others, min(SPARE, len(others)), replace=False) for _ in range(count)]
        donors = tuple(tuple(sources[int(index)].image for index in each) for each in drawn)
        made.append(Task(number, source, donors, str(output), settings))
    return made


def run_task(task: Task) -> Made:
    """Write a picture's composites, masks and truth; files that are there already are kept.

    Pictures, masks and donors that cannot be used are left out and named.
    """
    folder, settings = Path(task.output) / task.settings.subset, task.settings
    composites: list[str] = []
    skipped: list[tuple[str, str]] = []
    try:
        picture, masks = task.source.read(settings.largest)
    except RegionStyleError as error:
        return Made(task.number, (), ((task.source.image, str(error)),))
    truth = _as_jpeg(picture)
    for at, mask in enumerate(masks):
        if int(mask.sum()) < FEWEST or bool(mask.all()):
            skipped.append((f"{task.source.image}, mask {at + 1}", f"{int(mask.sum())} of {mask.numel()} pixels"))
            continue
        for variant in range(settings.variants):
            name = f"{task.name}_{at + 1}_{variant + 1}"
            place = folder / "composite_images" / f"{name}.jpg"
            try:
                if not place.is_file():
                    _write(place, _jpeg(_composite(task, truth, mask, at * settings.variants + variant)))
            except RegionStyleError as error:
                skipped.append((f"{task.source.image}, mask {at + 1}, donor", str(error)))
                continue
            composites.append(f"{settings.subset}/composite_images/{name}.jpg")
        _write(folder / "masks" / f"{task.name}_{at + 1}.png", _png(mask))
    if composites:
        _write(folder / "real_images" / f"{task.name}.jpg", _jpeg(truth))
    return Made(task.number, tuple(composites), tuple(skipped))


def _composite(task: Task, truth: Tensor, mask: Tensor, index: int) -> Tensor:
    settings = task.settings
    seed = np.random.SeedSequence([settings.seed, task.number, index]).generate_state(1, np.uint64)[0]
    random = torch.Generator().manual_seed(int(seed))
    strength = settings.low + (settings.high - settings.low) * float(torch.rand(1, generator=random))
    donor = _first_readable(task.donors[index], settings.largest)
    return random_poisson_blend(truth, mask, donor, random, strength=strength)


def _first_readable(donors: Sequence[str], largest: int) -> Tensor:
    """The first donor that is a picture. RegionStyleError of the last one when none is."""
    for donor in donors[:-1]:
        with suppress(RegionStyleError):
            return Source(donor, ()).read(largest)[0]
    return Source(donors[-1], ()).read(largest)[0]


def _as_jpeg(picture: Tensor) -> Tensor:
    """What a JPEG file of it holds."""
    from PIL import Image

    with Image.open(io.BytesIO(_jpeg(picture))) as image:
        values = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1)[None].contiguous()


def _bytes_of(picture: Tensor) -> np.ndarray:
    return (picture[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def _jpeg(picture: Tensor) -> bytes:
    return _encoded(_bytes_of(picture), "JPEG", quality=QUALITY, subsampling=0)


def _png(mask: Tensor) -> bytes:
    return _encoded(_bytes_of(mask)[..., 0], "PNG")


def _encoded(values: np.ndarray, kind: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all; what is there already stays."""
    if not path.is_file():
        with replacing(path, "--output") as part:
            part.write_bytes(data)


Runner = Callable[[Sequence[Task]], Iterator[Made]]


def run_here(todo: Sequence[Task]) -> Iterator[Made]:
    """One task after the other in this process."""
    return (run_task(task) for task in todo)


def make_data_set(
    sources: Sequence[Source], output: Path, settings: DataSettings, run: Runner = run_here,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Make the data set, or what is missing of it; returns the manifest.

    report(done, total) after every picture; what it raises ends the work, which the next call goes on with.
    RegionStyleError when the folder holds a data set of other settings or sources.
    """
    wanted = {
        "version": VERSION,
        "settings": asdict(settings),
        "sources": [source.image for source in sources],
        "masks": masks_mark(sources),
    }
    check_same(output, wanted)
    _write_manifest(output, {**wanted, "finished": False})
    todo, made = tasks(sources, output, settings), []
    for done in run(todo):
        made.append(done)
        report(len(made), len(todo))
    made.sort(key=lambda one: one.number)
    return _finish(output, settings, wanted, todo, made)


def masks_mark(sources: Sequence[Source]) -> str:
    """Changes with the masks: with their files' names and sizes, and with segmentations."""
    told = [
        [[mask, Path(mask).stat().st_size] if isinstance(mask, str) and Path(mask).is_file() else mask
         for mask in source.masks] for source in sources
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def check_same(output: Path, wanted: dict[str, Any]) -> None:
    """RegionStyleError unless a manifest that is there is of the same settings, pictures and masks."""
    manifest = output / "manifest.json"
    if not manifest.is_file():
        return
    try:
        there = json.loads(manifest.read_text(encoding="utf-8"))
        same = all(there.get(key) == value for key, value in wanted.items())
    except (ValueError, AttributeError):
        same = False
    if not same:
        got = f"{output}, with a data set of other settings or pictures, or other masks"
        raise wrong_input("--output", got, "an empty folder, or the same command again", "Choose another folder.")


def _finish(
    output: Path, settings: DataSettings, wanted: dict[str, Any], todo: Sequence[Task], made: Sequence[Made]
) -> dict[str, Any]:
    """Lists and the final manifest. Whole pictures go to one side, so that nothing tested on was trained on."""
    lists: dict[str, list[str]] = {"train": [], "test": []}
    for one in made:
        side = np.random.default_rng([settings.seed, 1, one.number]).random() < settings.test
        lists["test" if side else "train"] += one.composites
    for name, paths in lists.items():
        lines = [json.dumps({"file_name": path, "text": ""}) for path in paths]
        write_text(output / f"{name}.jsonl", "".join(f"{line}\n" for line in lines), "--output")
        write_text(output / f"{name}.txt", "".join(f"{path}\n" for path in paths), "--output")
    manifest = {
        **wanted,
        "finished": True,
        "counts": {name: len(paths) for name, paths in lists.items()},
        "pictures": {task.name: task.source.image for task in todo},
        "skipped": [{"what": what, "why": why} for one in made for what, why in one.skipped],
    }
    _write_manifest(output, manifest)
    return manifest


def _write_manifest(output: Path, manifest: dict[str, Any]) -> None:
    write_text(output / "manifest.json", json.dumps(manifest, indent=2) + "\n", "--output")
