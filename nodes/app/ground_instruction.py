"""Where the things of a sentence are, the same for every door: given, or found by the model's attention or Grounding
DINO, with or without Segment Anything's masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.errors import RegionStyleError, wrong_input
from ..engine.host.base import Host
from ..engine.language.instruction import EditRequest, Instruction
from ..engine.language.region_words import bare_words, region_request
from ..engine.region.region import box_mask, checked_box
from ..engine.region.regions import Regions, not_found_notice, region_of
from ..engine.sam_network import PUBLIC_FILES
from ..grounding.finders.attention import AttentionSettings
from ..grounding.finders.attention_finder import FoundRegions, find_regions, regions_by_attention
from ..grounding.finders.dino import PUBLIC_FOLDERS
from ..grounding.finders.network_folders import CONFIG
from ..grounding.finders.sam import SamNetwork, encode, load_network, segment_regions
from ..grounding.finders.sentence_regions import Finder, as_called, queries
from ..grounding.finders.text_grounding import AttentionSource, BoxSource, DetectorSource, ground
from ..grounding.masks.outlines import check_outline, outline_boxes, usual_outline

TINY_SAM = "tinyworld"
WHOLE = "whole picture"  # the phrase of a region that is no thing


class NothingFound(RegionStyleError):
    """A thing that was asked for is not in the picture."""


@dataclass(frozen=True, eq=False)
class Where:
    """Who says where things are; nothing set: the model's attention.

    At most one of: mask `[H,W]` in 0..1, box (x0, y0, x1, y1) in pixels, whole: for the one thing of a sentence;
    regions: found elsewhere, among which a sentence's words are looked up. sam: "tinyworld" or a file, whose masks
    outline what is found, or the thing in the box. outline: how that thing is outlined, one of `OUTLINES` (None: by sam
    where it is given, else by GrabCut where OpenCV is installed). detector: a folder with Grounding DINO, which finds
    instead of attention and needs sam.
    attention: how the model's attention is read.
    """

    mask: Tensor | None = None
    box: tuple[float, ...] | None = None
    whole: bool = False
    regions: Regions | None = None
    sam: str | None = None
    detector: Path | None = None
    attention: AttentionSettings = field(default_factory=AttentionSettings)
    outline: str | None = None

    @property
    def given(self) -> bool:
        """Whether the region is given and need not be found."""
        return self.mask is not None or self.box is not None or self.whole

    @property
    def needs_model(self) -> bool:
        """Whether the denoiser's attention is read."""
        return not self.given and self.regions is None and self.detector is None

    def check(self) -> None:
        """RegionStyleError for what does not go together, and for files that are missing."""
        if sum((self.mask is not None, self.box is not None, self.whole)) > 1:
            remedy = "Leave the others out."
            raise wrong_input("region", "several of --mask, --box and --whole", "one of them", remedy)
        check_finders(self.sam, self.detector)
        finders = [name for name, value in (("--sam", self.sam), ("--detector", self.detector)) if value is not None]
        boxed = self.box is not None and self.detector is None  # SAM outlines the thing in a box
        if finders and self.given and not boxed:
            raise RegionStyleError(
                f"{' and '.join(finders)}: got it with --mask, --box or --whole, expected one or the other, since a "
                "region that is given need not be found. Leave one of them out."
            )
        self._check_outline()

    def _check_outline(self) -> None:
        """RegionStyleError for an outline that nothing is done with, or that lacks its network."""
        if self.box is None:
            if self.outline is not None:
                accepts = "it with --box, whose thing it outlines"
                raise wrong_input("--outline", repr(self.outline), accepts, "Give a box, or leave it out.")
            return
        if self.outline is not None:
            check_outline(self.outline, self.sam is not None)
        if self.sam is not None and self.outline not in (None, "sam"):
            accepts = "--outline sam, or no --sam, since that would not be used"
            raise wrong_input("--outline", repr(self.outline), accepts, "Leave out one of them.")


def check_finders(sam: str | None, detector: Path | None) -> None:
    """RegionStyleError for a detector without Segment Anything, whose boxes are no outlines, and for files that are
    missing."""
    if detector is not None and sam is None:
        raise RegionStyleError(
            "--detector: got it without --sam, expected both, since a detector finds boxes and no outlines. Add "
            f"--sam sam_vit_b_01ec64.pth, or --sam {TINY_SAM} for the small one inside the pack."
        )
    if sam is not None and sam != TINY_SAM and not Path(sam).is_file():
        files = ", ".join(PUBLIC_FILES.values())
        accepts = f"a file in {Path(sam).parent.resolve()}, or {TINY_SAM!r}"
        raise wrong_input("--sam", repr(sam), accepts, f"Put one of {files} there, or correct the path.")
    if detector is not None and not (detector / CONFIG).is_file():
        accepts = f"a folder with a {CONFIG} at {detector.resolve()}"
        raise wrong_input("--detector", repr(str(detector)), accepts, f"Put {PUBLIC_FOLDERS[0]} there, all its files.")


def load_sam_of(name: str) -> SamNetwork:
    """The network inside the pack ("tinyworld"), or that of a file in its authors' layout."""
    from ..tinyworld.tiny_sam import load_tiny_sam

    return SamNetwork(load_tiny_sam(), name) if name == TINY_SAM else load_network(Path(name))


def instruction_of(phrases: Sequence[str]) -> Instruction:
    """Phrases as things to find, without styles. RegionStyleError for none, and for one without words."""
    requests: list[EditRequest] = []
    for phrase in phrases:
        request = region_request(phrase, "") if isinstance(phrase, str) else None
        if request is None:
            raise wrong_input("phrases", repr(phrase), "words for a thing", "Type for example 'red star'.")
        requests.append(request)
    if not requests:
        raise wrong_input("phrases", "nothing", "one phrase or more", "Type for example 'red star'.")
    return Instruction(tuple(dict.fromkeys(requests)))


def ground_instruction(
    predictor: Any, images: Tensor, instruction: Instruction, where: Where | None = None, host: Host | None = None
) -> FoundRegions:
    """The regions of a sentence in images `[B,3,H,W]` in 0..1, and a notice of what was not found.

    predictor: the denoiser, inside its `loaded()`; None where nothing reads its attention (`Where.needs_model`). host:
    for the other networks (default: the predictor's). RegionStyleError for a given region and several things, and for
    words that none of the given regions is called.
    """
    where = where or Where()
    if where.given:
        return _given(images, instruction, where, host or (None if predictor is None else predictor.host))
    if where.regions is not None:
        return named_in(instruction, where.regions)
    if where.sam is None:
        return regions_by_attention(predictor, images, instruction, where.attention)
    host = host or predictor.host
    embedding, source = encode(load_sam_of(where.sam), images, host), _source(predictor, instruction, where, host)
    grounded = ground(images, embedding, source, host)
    return FoundRegions(grounded.regions, grounded.notice)


def check_all_found(found: FoundRegions) -> FoundRegions:
    """What was found; NothingFound when a thing is missing."""
    if found.notice:
        remedy = "Use other words for it, or give the region with --mask, --box or --whole."
        raise NothingFound(f"prompt: {found.notice}. {remedy}")
    return found


def check_tiny_words(instruction: Instruction) -> None:
    """RegionStyleError for a word that the tiny world does not know: its attention can find nothing by it."""
    from ..tinyworld.tokenizer import known
    from ..tinyworld.world import COLORS, SHAPES

    for phrase in queries(instruction):
        strange = [word for word in phrase.split() if not known(word.lower())]
        if strange:
            raise RegionStyleError(
                f"phrase: {phrase!r} was not found: the tiny world knows no word {strange[0]!r}, only shapes "
                f"({', '.join(SHAPES)}) and colours ({', '.join(COLORS)}). Give the region with --mask, --box or "
                "--whole, a real model with --model FOLDER, or what finds it with --detector and --sam."
            )


def _given(images: Tensor, instruction: Instruction, where: Where, host: Host | None) -> FoundRegions:
    """The one region that is given, in every picture."""
    if len(instruction.requests) > 1 or instruction.kept:
        raise RegionStyleError(
            f"prompt: got several things ({instruction}), expected one with --mask, --box or --whole. Name only the "
            "style of that region."
        )
    size = (int(images.shape[-2]), int(images.shape[-1]))
    style, mask = instruction.requests[0].style, _given_mask(where, size)
    items = tuple(region_of(WHOLE, mask, style=style, image=index) for index in range(len(images)))
    regions = Regions(items, *size, len(images))
    return FoundRegions(regions, "") if where.box is None else _outlined(images, regions, where, host)


def _outlined(images: Tensor, regions: Regions, where: Where, host: Host | None) -> FoundRegions:
    """The thing in the given box, and a line that says what outlined it."""
    outline = where.outline or usual_outline(where.sam is not None)
    if where.sam is not None:
        assert host is not None  # whoever gives SAM gives a host, or a predictor with one
        regions = segment_regions(encode(load_sam_of(where.sam), images, host), regions, host)
        return FoundRegions(regions, not_found_notice(regions), "outline: Segment Anything")
    made = outline_boxes(images, regions, outline, required=where.outline is not None)
    notices = tuple(f"outline: {notice}" for notice in made.notices)
    return FoundRegions(made.regions, "", f"outline: {made.said}", notices)


def _given_mask(where: Where, size: tuple[int, int]) -> Tensor:
    if where.box is not None:
        return box_mask(checked_box(where.box, size), size)
    if where.mask is None:
        return torch.ones(size)
    if tuple(where.mask.shape) != size:
        got = f"{list(where.mask.shape)} (height, width)"
        raise wrong_input("mask", got, f"the picture's {list(size)}", "Give the mask at the picture's size.")
    return where.mask


def _source(predictor: Any, instruction: Instruction, where: Where, host: Host) -> BoxSource:
    from ..grounding.finders.dino import load_detector

    if where.detector is None:
        return AttentionSource(predictor, instruction, where.attention)
    return DetectorSource(load_detector(where.detector), instruction, host)


def named_in(instruction: Instruction, regions: Regions) -> FoundRegions:
    """The regions of a sentence among given ones, by their words; positions choose among those of one phrase.

    RegionStyleError for a thing that none of the regions is called.
    """
    names = {bare_words(phrase) for phrase in regions.phrases}
    called = as_called(instruction, names)

    def finder_of(picture: Tensor, index: int) -> Finder:
        items = regions.of_image(index)
        return lambda query, apart: [region for region in items if bare_words(region.phrase) == _known(query, names)]

    pictures = torch.empty(1, 1, 1, 1).expand(regions.batch, 3, regions.height, regions.width)
    return find_regions(pictures, called, finder_of)


def _known(query: str, names: set[str]) -> str:
    if bare_words(query) not in names:
        known = ", ".join(repr(name) for name in sorted(names)) or "nothing: there are no regions"
        raise RegionStyleError(
            f"sentence: got {query!r}, expected the words of a region: {known}. Use these words, or leave regions "
            "unconnected to find things by attention."
        )
    return bare_words(query)
