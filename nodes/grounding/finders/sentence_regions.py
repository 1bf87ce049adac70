"""From a sentence to regions, whatever finds the things: instances are chosen, the background is the complement of
what is named, things to keep are cut out, and every place belongs to one region only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError
from ...engine.region.region import Region
from ...engine.region.regions import Regions, missing_region, not_found_notice, region_of
from ..language.instruction import EditRequest, Instruction, Selector
from ..language.region_words import bare_words, region_request
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
    lost = [f"{name!r} not found in image {at}, so it acts as if it were not named"
            for at, one in enumerate(resolved) for name in one.lost]  # fmt: skip
    fewer = [f"{name!r}: only {found} of {asked} found in image {at}"
             for at, one in enumerate(resolved) for name, found, asked in one.fewer]  # fmt: skip
    return "; ".join([*filter(None, [not_found_notice(regions)]), *lost, *fewer])


def queries(sentence: Instruction) -> list[str]:
    """The words that have to be looked for, each once: things, things to keep, and things others are related to."""
    found: list[str] = []
    for request in (*sentence.requests, *sentence.kept):
        found += [request.query] if request.selector.kind == "thing" else []
        found += queries(Instruction(_anchors(request)))
    return list(dict.fromkeys(found))


def _anchors(request: EditRequest) -> tuple[EditRequest, ...]:
    """The things a request is related to, or leaves out, read as regions of their own."""
    words = request.selector.anchor
    parts = re.split(r"\s*(?:,|\band\b)\s+(?:the|an?|my)\s+", words) if request.selector.kind == "rest" else [words]
    made = [region_request(part, "") for part in parts if part]
    return tuple(one for one in made if one is not None)


def as_called(sentence: Instruction, names: Iterable[str]) -> Instruction:
    """A sentence about regions that have names: what is called by the very words of one means all of that name."""
    known = {bare_words(name) for name in names}

    def called(one: EditRequest) -> EditRequest:
        return (
            EditRequest(one.phrase, one.style, one.phrase, Selector(count=None))
            if bare_words(one.phrase) in known
            else one
        )

    requests, kept = (tuple(called(one) for one in part) for part in (sentence.requests, sentence.kept))
    return Instruction(requests, kept, sentence.unread)


def find_instances(request: EditRequest, find: Finder) -> list[Region]:
    """What a request means in the picture at hand, found ones only, under the request's phrase and style."""
    selector = request.selector
    found = [
        one
        for one in find(request.query, selector not in (Selector(), Selector(count=None)))
        if bool((one.mask > 0).any())
    ]
    anchors = [one for anchor in _anchors(request) for one in find_instances(anchor, find)] if selector.relation else []
    chosen = select(suppress(found), selector, anchors)
    return [replace(one, phrase=request.phrase, style=request.style) for one in chosen]


def sentence_regions(sentence: Instruction, find: Finder, size: tuple[int, int], image: int = 0) -> Resolved:
    """The regions of a picture of size `(H, W)`; several of one phrase for "all" and numbers.

    Nothing overlaps: what is said later lies on top, the background and the whole picture lie below everything. What
    was not found is a region with an empty mask; the background is one too when a thing it leaves out was not found,
    since that thing would be in it. RegionStyleError when the background of nothing is asked for.
    """
    asked = (*sentence.requests, *sentence.kept, *(a for one in sentence.requests for a in _anchors(one)))
    found = {one: find_instances(one, find) for one in asked if one.selector.kind == "thing"}
    made: list[Region] = []
    for request in sentence.requests:
        own = found[request] if request in found else _area(request, sentence, found, size)
        own = own or [missing_region(request.phrase, size, style=request.style)]
        made += [replace(one, image=image) for one in own]
    below = {request.phrase for request in sentence.requests if request.selector.kind != "thing"}
    kept = [region for one in sentence.kept for region in found.get(one, [])]
    beside = [one.phrase for one in found if one not in sentence.requests and not found[one]]
    counted = ((one, len(found.get(one, ())), one.selector.count or 0) for one in sentence.requests)
    fewer = tuple((one.phrase, number, asked) for one, number, asked in counted if 0 < number < asked)
    return Resolved(tuple(_layered(made, below, kept)), tuple(dict.fromkeys(beside)), fewer)


def _area(
    request: EditRequest, sentence: Instruction, found: Mapping[EditRequest, Sequence[Region]], size: tuple[int, int]
) -> list[Region]:
    """The whole picture, or all of it that no named thing covers; nothing when one of these was not found."""
    if request.selector.kind == "whole":
        return [region_of(request.phrase, torch.ones(size), style=request.style)]
    things = (*sentence.requests, *sentence.kept, *_anchors(request))
    named = [found[one] for one in things if one in found]
    if not named:
        raise RegionStyleError(
            f"prompt: got {request.phrase!r} without naming a thing that is not part of it, expected for example "
            "'turn everything except the dog into a mosaic' or 'make the dog neon and the background a mosaic'."
        )
    if not all(named):
        return []
    covered = torch.zeros(size)
    for one in (one for found in named for one in found):
        covered = torch.maximum(covered, one.mask.to(covered))
    return [region_of(request.phrase, 1 - covered, style=request.style)]


def _layered(items: list[Region], below: set[str], kept: Sequence[Region]) -> list[Region]:
    """Without overlaps, in the given order."""
    order = sorted(range(len(items)), key=lambda at: items[at].phrase not in below)
    cut = cut_overlaps([items[at] for at in order])
    result = [one for _, one in sorted(zip(order, cut, strict=True), key=lambda pair: pair[0])]
    return [with_mask(one, _outside(one.mask, kept)) for one in result] if kept else result


def _outside(mask: Tensor, kept: Sequence[Region]) -> Tensor:
    for one in kept:
        mask = torch.minimum(mask, 1 - one.mask.to(mask))
    return mask
