"""Pairs to teach an expert with, made by the pack's own parts: behind `regionstyle make pairs`.

A style expert (or, in the tiny world, the exact filter) paints the whole picture, and the mask of one thing puts that
into the original: so the pair differs in the thing alone, as RegionRoute's training pairs do (arXiv:2602.19254).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..engine.errors import wrong_input
from ..engine.host.base import Host
from ..engine.io.safe_write import write_text
from ..engine.region.region import Region
from ..engine.region.regions import Regions
from ..sampler.training.manifest import Record, read_records, write_manifest
from .edit import EditSettings, edit
from .ground_instruction import Where, ground_instruction, instruction_of
from .local_model import TINY, open_model
from .painters.registry import PainterContext, painter_named
from .pictures import read_image, read_mask, save_image, whole_steps
from .stylize import EXPERT

MANIFEST, FACTS = "pairs.json", "pairs.settings.json"
AFTER, BEFORE, MASKS = "styled", "original", "masks"
PROMPT = "a {thing} in {style} style"
SMALLEST = 1e-3  # share of a picture that a thing must have, to teach anything
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
Whole = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Source:
    """One picture: its name; read: gives it, `[1,3,H,W]`; things: words and masks `[H,W]` of what may be restyled."""

    name: str
    read: Callable[[], Tensor]
    things: Callable[[Tensor], list[tuple[str, Tensor]]]


@dataclass(frozen=True)
class PairsRequest:
    """style: its words; prompt: a template with {thing} and {style}; exact: the tiny world's filter instead of its
    expert; model, expert, settings: as for `stylize`."""

    style: str
    prompt: str = PROMPT
    exact: bool = False
    model: str = TINY
    expert: Path | None = None
    settings: EditSettings = field(default_factory=EditSettings)

    def check(self) -> None:
        """RegionStyleError for a template that lacks a name, and a filter that there is not."""
        from ..tinyworld.styles import STYLES

        try:
            said = self.prompt.format(thing="\0", style="\1")
        except (KeyError, IndexError, ValueError):
            said = ""
        if "\0" not in said or "\1" not in said:
            accepts = "a sentence with {thing} and {style} and no other braces"
            raise wrong_input("--prompt", repr(self.prompt), accepts, f"For example {PROMPT!r}.")
        if self.exact and (self.model != TINY or self.style not in STYLES):
            got = f"{self.style!r} of {self.model}"
            raise wrong_input("--exact", got, f"one of the tiny world's: {', '.join(STYLES)}", "Leave --exact out.")

    @property
    def facts(self) -> dict[str, object]:
        """What must be the same to go on with a folder."""
        chosen = {name: value for name, value in vars(self.settings).items() if isinstance(value, str | int | float)}
        told = {"style": self.style, "prompt": self.prompt, "exact": self.exact, "model": str(self.model)}
        return {**told, "expert": str(self.expert or ""), **chosen}


@dataclass(frozen=True)
class Made:
    """records: of the whole folder; new: how many were made now; left_out: a line for each thing that was not used."""

    records: tuple[Record, ...]
    new: int
    left_out: tuple[str, ...]


def make_pairs(
    sources: Sequence[Source], request: PairsRequest, paint: Whole, folder: Path, host: Host
) -> Made:  # fmt: skip
    """Make the pairs of pictures, or go on with a folder that was begun: what is there already stays.

    paint: restyles a whole picture `[1,3,H,W]`. Files are written whole, the manifest after every picture. Cancel is
    checked at every picture. RegionStyleError for a folder that was made otherwise.
    """
    request.check()
    records = {record.image_name: record for record in _begun(folder, request)}
    progress, new, left_out = host.progress(len(sources), "making pairs"), 0, []
    for number, source in enumerate(sources, 1):
        made, said = _of_source(source, request, paint, folder, records)
        left_out += said
        if made:
            records |= {record.image_name: record for record in made}
            new += len(made)
            write_manifest(list(records.values()), folder / MANIFEST)
        progress.update(number)
    if not records:
        raise wrong_input("pairs", f"nothing to restyle in {len(sources)} pictures", "one thing or more", "Give masks.")
    return Made(tuple(records.values()), new, tuple(left_out))


def _begun(folder: Path, request: PairsRequest) -> list[Record]:
    """The records that a folder holds already."""
    facts = json.dumps(request.facts, indent=1, default=str)
    kept = folder / FACTS
    if kept.is_file() and kept.read_text(encoding="utf-8").strip() != facts:
        got = f"{folder}, begun with other settings"
        raise wrong_input("--output", got, "a new folder, or the same settings", f"They are in {kept.name} there.")
    write_text(kept, facts + "\n", "--output")
    return [] if not (folder / MANIFEST).is_file() else [
        record for record in read_records(folder / MANIFEST) if all(file.is_file() for file in record.files(folder))
    ]  # fmt: skip


def _of_source(
    source: Source, request: PairsRequest, paint: Whole, folder: Path, known: dict[str, Record]
) -> tuple[list[Record], list[str]]:
    """The new records of one picture, a pair per thing; and what of it was left out. Painted once, where needed."""
    before, styled, made, left_out = source.read(), None, [], []
    for number, (thing, mask) in enumerate(source.things(before), 1):
        name = f"{source.name}-{number}"
        if name in known:
            continue
        if float(mask.mean()) < SMALLEST or float(mask.min()) > 0:
            left_out.append(f"{source.name}, {thing!r}: no such thing, or nothing but it")
            continue
        styled = paint(before) if styled is None else styled
        made.append(_write(folder, name, thing, before, styled, whole_steps(mask), request))
    return made, left_out


def _write(
    folder: Path, name: str, thing: str, before: Tensor, styled: Tensor, mask: Tensor, request: PairsRequest
) -> Record:
    if "/" in thing or "\\" in thing:
        raise wrong_input("thing", repr(thing), "words without slashes", "It becomes part of a file's name.")
    after, original = f"{AFTER}/{name}.png", f"{BEFORE}/{name}.png"
    prompt = request.prompt.format(thing=thing, style=request.style)
    record = Record(prompt, after, original, MASKS, name, {thing: request.style})
    save_image(torch.lerp(before, styled.to(before), mask), folder / after)
    save_image(before, folder / original)
    save_image(mask, record.mask_file(folder, thing))
    return record


def whole_painter(request: PairsRequest, host: Host) -> tuple[Whole, object]:
    """What restyles a whole picture as a request says, and the model behind it (None: an exact filter)."""
    if request.exact:
        return _filtered(request.style), None
    model = open_model(request.model, host, styles=[request.style], expert=request.expert)
    painter = painter_named(EXPERT, PainterContext(model, request.settings))

    def paint(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        whole = Region("picture", (0, 0, width, height), torch.ones(height, width), request.style)
        with model.predictor.loaded():
            return edit(image, Regions((whole,), height, width), painter, request.settings).image

    return paint, model


def _filtered(style: str) -> Whole:
    from ..tinyworld.styles import apply_style

    def paint(image: Tensor) -> Tensor:
        made = apply_style(image[0].permute(1, 2, 0).numpy(), style)
        return torch.from_numpy(made).permute(2, 0, 1)[None]

    return paint


def folder_sources(images: Path, masks: Path) -> list[Source]:
    """Pictures of a folder, with masks `mask_NAME_THING.png` in another. RegionStyleError for a picture without any."""
    found = [Source(file.stem, lambda file=file: read_image(file), _masks_of(file, masks)) for file in _files(images)]  # type: ignore[misc]
    bare = [source.name for source in found if not list(masks.glob(f"mask_{source.name}_*.png"))]
    if bare:
        got, accepts = f"none for {', '.join(bare[:5])}", "mask_NAME_THING.png for every NAME"
        raise wrong_input("--masks", got, accepts, "Name them so, or find things by words with --find.")
    return found


def _masks_of(file: Path, masks: Path) -> Callable[[Tensor], list[tuple[str, Tensor]]]:
    def things(image: Tensor) -> list[tuple[str, Tensor]]:
        size, start = (int(image.shape[-2]), int(image.shape[-1])), f"mask_{file.stem}_"
        return [(one.stem[len(start) :], read_mask(one, size)) for one in sorted(masks.glob(f"{start}*.png"))]

    return things


def found_sources(images: Path, phrases: Sequence[str], model: str, host: Host, where: Where) -> list[Source]:
    """Pictures of a folder, in which things are found by words: by a model's attention, or as `where` says."""
    instruction = instruction_of(phrases)
    opened = open_model(model, host) if where.needs_model else None

    def things(image: Tensor) -> list[tuple[str, Tensor]]:
        if opened is None:
            found = ground_instruction(None, image, instruction, where, host)
        else:
            with opened.predictor.loaded():
                found = ground_instruction(opened.predictor, image, instruction, where)
        return [(region.phrase, region.mask) for region in found.regions]

    return [Source(file.stem, lambda file=file: read_image(file), things) for file in _files(images)]  # type: ignore[misc]


def scene_sources(count: int, seed: int) -> list[Source]:
    """Scenes of the tiny world with one thing each, whose masks are exact."""
    return list(_scenes(count, seed))


def _scenes(count: int, seed: int) -> Iterator[Source]:
    from ..tinyworld.world import scene

    for number in range(seed, seed + count):
        made = scene(number, count=1)
        thing = made.objects[0]
        picture = torch.from_numpy(made.image).permute(2, 0, 1)[None]
        words, mask = f"{thing.color} {thing.shape}", torch.from_numpy(thing.mask)
        yield Source(f"{number:05d}", lambda one=picture: one, lambda image, w=words, m=mask: [(w, m)])  # type: ignore[misc]


def _files(images: Path) -> list[Path]:
    if not images.is_dir():
        raise wrong_input("--images", repr(str(images)), "a folder with pictures", "There is no such folder.")
    files = sorted(f for f in images.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise wrong_input("--images", f"no picture in {str(images)!r}", "one or more", "Put some there.")
    return files
