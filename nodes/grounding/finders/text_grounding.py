"""From a sentence and a picture to a mask per thing: boxes from whoever finds them, masks from Segment Anything.

LEAST (arXiv 2405.16330, section 3.1) with parts to choose: the words are read by rules or by a
vision-language model, boxes come from Grounding DINO, that model, the denoiser's own attention or the user, and every
box becomes a soft mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.host.base import Host
from ...engine.language.instruction import EditRequest, Instruction, Selector
from ...engine.language.region_words import bare_words
from ...engine.predictor.base import NoisePredictor
from ...engine.region.inner_points import INSIDE, inner_point
from ...engine.region.region import Box, Region, box_mask, mask_box
from ...engine.region.regions import Regions, region_of
from ..settings import BEST, AttentionSettings, DetectorSettings
from .attention_finder import attention_finder
from .dino import Detector, find_boxes
from .sam import SamEmbedding, SamMask, SamPrompt, SamSegmenter
from .sentence_regions import Finder, as_called, found_notice, queries, sentence_regions
from .split_instances import split_instances
from .vlm import Corners, Vlm, ask


class Detections(NamedTuple):
    """What is asked for in a picture and its finder; joined: what it finds may be several things that touch."""

    instruction: Instruction
    find: Finder
    joined: bool = False


class BoxSource(Protocol):
    """Reads what is asked for and finds the boxes."""

    def look(self, index: int, image: Tensor) -> Detections:
        """What is asked for in picture `index`, `[3,H,W]` in 0..1, and its boxes; every network call happens here."""


@dataclass(frozen=True)
class DetectorSource:
    """Boxes from Grounding DINO for a sentence read by rules."""

    detector: Detector
    instruction: Instruction
    host: Host
    settings: DetectorSettings = DetectorSettings()

    def look(self, index: int, image: Tensor) -> Detections:
        """Asks for every thing by itself."""
        self.host.load(self.detector.model)
        regions = {
            query: find_boxes(self.detector, image, query, self.host, self.settings, index).regions
            for query in queries(self.instruction)
        }
        return Detections(self.instruction, lambda query, apart: regions[query])


@dataclass(frozen=True)
class AttentionSource:
    """Boxes around what a denoiser attends to. Use inside its `loaded()`."""

    predictor: NoisePredictor
    instruction: Instruction
    settings: AttentionSettings = AttentionSettings()

    def look(self, index: int, image: Tensor) -> Detections:
        """Looks for every thing once."""
        find = attention_finder(self.predictor, image[None], self.instruction, self.settings)
        for query in queries(self.instruction):
            find(query, False)  # it remembers what it saw
        return Detections(self.instruction, find, joined=True)


@dataclass(frozen=True)
class RegionsSource:
    """The user's own boxes: regions that are named as the sentence names the things."""

    regions: Regions
    instruction: Instruction

    def look(self, index: int, image: Tensor) -> Detections:
        """Takes those of the picture whose words are the thing's, whatever their articles and capitals."""
        own = self.regions.of_image(index)
        named = as_called(self.instruction, self.regions.phrases)
        return Detections(
            named, lambda query, apart: [region for region in own if bare_words(region.phrase) == bare_words(query)]
        )


@dataclass(frozen=True)
class VlmSource:
    """Words and boxes from a vision-language model."""

    vlm: Vlm
    prompt: str
    host: Host

    def look(self, index: int, image: Tensor) -> Detections:
        """Asks once per picture; what it gave no box for counts as not found."""
        answer = ask(self.vlm, image, self.prompt, self.host)
        size = (int(image.shape[-2]), int(image.shape[-1]))
        return _settled(answer.instruction, answer.boxes, size)


def _settled(instruction: Instruction, boxes: Sequence[Corners | None], size: tuple[int, int]) -> Detections:
    """A sentence whose boxes are known, so that nothing is left to choose: "the leftmost cat" is that box."""
    asked = zip(instruction.requests, boxes, strict=True)
    pairs = [(_numbered(index, request), box) for index, (request, box) in enumerate(asked)]
    regions = {
        request.query: [Region.of_box(request.phrase, box, size)] if box else []  # type: ignore[arg-type]
        for request, box in pairs
    }
    return Detections(Instruction(tuple(request for request, _ in pairs)), lambda query, apart: regions[query])


def _numbered(index: int, request: EditRequest) -> EditRequest:
    """The request for its own box, apart from others of the same words; background and whole picture stay."""
    return request if request.selector.kind != "thing" else replace(request, query=f"{index}", selector=Selector())


@dataclass(frozen=True)
class Grounded:
    """regions of the batch; notice: what was not found, "" when all was; understood: per picture, what was asked."""

    regions: Regions
    notice: str
    understood: tuple[str, ...]


def check_embedding(embedding: SamEmbedding, images: Tensor) -> None:
    """RegionStyleError when an embedding is of images of another size or number than `[B,3,H,W]`."""
    own, other = (len(embedding.features), *embedding.size), (len(images), *images.shape[-2:])
    if own != tuple(other):
        got = f"one of {own[0]} images of {own[2]} x {own[1]}"
        accepts = f"one of {other[0]} of {other[2]} x {other[1]}, as the image"
        raise wrong_input("embedding", got, accepts, "Encode the same image.")


def look_at_all(images: Tensor, source: BoxSource, host: Host) -> list[Detections]:
    """What is asked for and where its boxes are, for each of images `[B,3,H,W]` in 0..1."""
    progress, detections = host.progress(len(images), "boxes"), []
    for index, image in enumerate(images):
        host.check()
        detections.append(source.look(index, image))
        progress.update(index + 1)
    return detections


def segment_all(detections: Sequence[Detections], embedding: SamEmbedding, host: Host, choice: str = BEST) -> Grounded:
    """The things asked for, each with its own soft mask; embedding: of the same images.

    A region's score is the box's times the IoU that SAM expects.
    """
    progress, segmenter, results = host.progress(len(detections), "SAM"), SamSegmenter(embedding, host, choice), []
    for image, detected in enumerate(detections):
        results.append(
            sentence_regions(detected.instruction, _segmenting(detected, segmenter, image), embedding.size, image)
        )
        progress.update(image + 1)
    items = tuple(region for result in results for region in result.regions)
    regions = Regions(items, *embedding.size, len(detections))
    return Grounded(
        regions, found_notice(regions, results), tuple(str(detected.instruction) for detected in detections)
    )


def ground(images: Tensor, embedding: SamEmbedding, source: BoxSource, host: Host, choice: str = BEST) -> Grounded:
    """`look_at_all`, then `segment_all`: everything is looked for first, so that each network is loaded once."""
    check_embedding(embedding, images)
    return segment_all(look_at_all(images, source, host), embedding, host, choice)


def _segmenting(detected: Detections, segmenter: SamSegmenter, index: int) -> Finder:
    """The same finder, with the masks that SAM gives for what it found."""

    def masked(query: str, apart: bool) -> list[Region]:
        regions = [region for region in detected.find(query, apart) if bool((region.mask > 0).any())]
        separated = [_apart(region, segmenter, index) if detected.joined and apart else [] for region in regions]
        return [result for region, things in zip(regions, separated, strict=True)
                for result in things or [_segmented(region, segmenter, index)]]  # fmt: skip

    return masked


def _apart(region: Region, segmenter: SamSegmenter, index: int) -> list[Region]:
    """The things that touch in a region, or none where it is one thing."""
    things = split_instances(region.mask, segmenter, index)
    return [_of_answer(region, thing, index) for thing in things] if len(things) > 1 else []


def _of_answer(region: Region, answer: SamMask, index: int) -> Region:
    score = region.score * min(max(answer.iou, 0.0), 1.0)
    return region_of(region.phrase, answer.soft, style=region.style, score=score, image=index)


def _segmented(region: Region, segmenter: SamSegmenter, index: int) -> Region:
    """The region with SAM's mask. Its box stays the finder's, by which positions are told: masks may have specks."""
    box = mask_box(region.mask, INSIDE) if bool((region.mask > INSIDE).any()) else region.box
    segmented = _of_answer(region, _answer(region, box, segmenter, index), index)
    return replace(segmented, box=box) if bool((segmented.mask > 0).any()) else segmented


def _answer(region: Region, box: Box, segmenter: SamSegmenter, index: int) -> SamMask:
    """What SAM makes of a box; where the finder knows the shape too, what comes nearest to it."""
    size = (int(region.mask.shape[-2]), int(region.mask.shape[-1]))
    if torch.equal(region.mask, box_mask(region.box, size).to(region.mask)) or not bool((region.mask > INSIDE).any()):
        return segmenter.ask(index, SamPrompt(region.box))
    return segmenter.ask_like(index, [SamPrompt(box), SamPrompt(box, (inner_point(region.mask),))], region.mask)
