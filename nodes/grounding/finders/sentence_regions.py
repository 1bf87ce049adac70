"""From an instruction to regions, whatever finds the things: instances are chosen, the background is the complement of
what is named, things to keep are cut out, and every place belongs to one region only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...engine.language.instruction import EditRequest, Instruction, Selector
from ...engine.language.region_words import bare_words, region_request
from ...engine.region.region import Region
from ...engine.region.regions import Regions, missing_region, not_found_notice, region_of
from ..masks.composition import cut_overlaps, with_mask
from .selection import select, suppress

# Finds the instances of a query in the picture at hand: (query, whether they have to be told apart) -> regions.
Finder = Callable[[str, bool], Sequence[Region]]


@dataclass(frozen=True)
class Resolved:
    """regions of one picture, in the sentence's order; lost: things to keep or to stand beside that were not found;
    fewer: per phrase of which there are too few, how many were found and how many asked for."""

    regions: tuple[Region, ...]
    lost: tuple[str, ...] = ()
    fewer: tuple[tuple[str, int, int], ...] = ()


def found_notice(regions: Regions, resolved: Sequence[Resolved]) -> str:
    """A line that names what was not found in a batch: `resolved` per picture, and `regions` of all of them."""
    lost = [f"{name!r} not found in image {image}, so it acts as if it were not named"
            for image, result in enumerate(resolved) for name in result.lost]  # fmt: skip
    fewer = [f"{name!r}: only {number} of {asked} found in image {image}"
             for image, result in enumerate(resolved) for name, number, asked in result.fewer]  # fmt: skip
    return "; ".join([*filter(None, [not_found_notice(regions)]), *lost, *fewer])


def queries(instruction: Instruction) -> list[str]:
    """The words that have to be looked for, each once: things, things to keep, and things others are related to."""
    words: list[str] = []
    for request in (*instruction.requests, *instruction.kept):
        words += [request.query] if request.selector.kind == "thing" else []
        words += queries(Instruction(_anchors(request)))
    return list(dict.fromkeys(words))


def _anchors(request: EditRequest) -> tuple[EditRequest, ...]:
    """The things a request is related to, or leaves out, read as regions of their own."""
    words = request.selector.anchor
    parts = re.split(r"\s*(?:,|\band\b)\s+(?:the|an?|my)\s+", words) if request.selector.kind == "rest" else [words]
    requests = [region_request(part, "") for part in parts if part]
    return tuple(anchor for anchor in requests if anchor is not None)


def as_called(instruction: Instruction, names: Iterable[str]) -> Instruction:
    """A sentence about regions that have names: what is called by the very words of one means all of that name."""
    known = {bare_words(name) for name in names}

    def called(request: EditRequest) -> EditRequest:
        return (
            EditRequest(request.phrase, request.style, request.phrase, Selector(count=None))
            if bare_words(request.phrase) in known
            else request
        )

    requests, kept = (tuple(called(request) for request in part) for part in (instruction.requests, instruction.kept))
    return Instruction(requests, kept, instruction.unread)


def find_instances(request: EditRequest, find: Finder) -> list[Region]:
    """What a request means in the picture at hand, found ones only, under the request's phrase and style."""
    selector = request.selector
    instances = [
        region
        for region in find(request.query, selector not in (Selector(), Selector(count=None)))
        if bool((region.mask > 0).any())
    ]
    anchors = (
        [region for anchor in _anchors(request) for region in find_instances(anchor, find)] if selector.relation else []
    )
    chosen = select(suppress(instances), selector, anchors)
    return [replace(region, phrase=request.phrase, style=request.style) for region in chosen]


def sentence_regions(instruction: Instruction, find: Finder, size: tuple[int, int], image: int = 0) -> Resolved:
    """The regions of a picture of size `(H, W)`; several of one phrase for "all" and numbers.

    Nothing overlaps: what is said later lies on top, the background and the whole picture lie below everything. What
    was not found is a region with an empty mask; the background is one too when a thing it leaves out was not found,
    since that thing would be in it. RegionStyleError when the background of nothing is asked for.
    """
    asked = (
        *instruction.requests,
        *instruction.kept,
        *(anchor for request in instruction.requests for anchor in _anchors(request)),
    )
    instances = {request: find_instances(request, find) for request in asked if request.selector.kind == "thing"}
    regions: list[Region] = []
    for request in instruction.requests:
        named = instances[request] if request in instances else _area(request, instruction, instances, size)
        named = named or [missing_region(request.phrase, size, style=request.style)]
        regions += [replace(region, image=image) for region in named]
    below = {request.phrase for request in instruction.requests if request.selector.kind != "thing"}
    kept = [region for request in instruction.kept for region in instances.get(request, [])]
    beside = [request.phrase for request in instances if request not in instruction.requests and not instances[request]]
    counted = (
        (request, len(instances.get(request, ())), request.selector.count or 0) for request in instruction.requests
    )
    fewer = tuple((request.phrase, number, asked) for request, number, asked in counted if 0 < number < asked)
    return Resolved(tuple(_layered(regions, below, kept)), tuple(dict.fromkeys(beside)), fewer)


def _area(
    request: EditRequest,
    instruction: Instruction,
    instances: Mapping[EditRequest, Sequence[Region]],
    size: tuple[int, int],
) -> list[Region]:
    """The whole picture, or all of it that no named thing covers; nothing when one of these was not found."""
    if request.selector.kind == "whole":
        return [region_of(request.phrase, torch.ones(size), style=request.style)]
    things = (*instruction.requests, *instruction.kept, *_anchors(request))
    named = [instances[request] for request in things if request in instances]
    if not named:
        raise RegionStyleError(
            f"prompt: got {request.phrase!r} without naming a thing that is not part of it, expected for example "
            "'turn everything except the dog into a mosaic' or 'make the dog neon and the background a mosaic'."
        )
    if not all(named):
        return []
    covered = torch.zeros(size)
    for region in (region for regions in named for region in regions):
        covered = torch.maximum(covered, region.mask.to(covered))
    return [region_of(request.phrase, 1 - covered, style=request.style)]


def _layered(items: list[Region], below: set[str], kept: Sequence[Region]) -> list[Region]:
    """Without overlaps, in the given order."""
    order = sorted(range(len(items)), key=lambda index: items[index].phrase not in below)
    cut = cut_overlaps([items[index] for index in order])
    result = [region for _, region in sorted(zip(order, cut, strict=True), key=lambda pair: pair[0])]
    return [with_mask(region, _outside(region.mask, kept)) for region in result] if kept else result


def _outside(mask: Tensor, kept: Sequence[Region]) -> Tensor:
    for region in kept:
        mask = torch.minimum(mask, 1 - region.mask.to(mask))
    return mask
