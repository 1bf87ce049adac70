"""Boxes, phrases and sentences to regions over ComfyUI's objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...engine.adapters.comfy import without_experts
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.comfy import ComfyHost
from ...engine.io.comfy_tensors import images_of
from ...engine.language.instruction import EditRequest
from ...engine.predictor.comfy import ComfyPredictor
from ...engine.region.region import Region
from ...engine.region.regions import Regions, missing_region, not_found_notice
from ..finders import dino, vlm
from ..finders.sam import SamEmbedding, SamPrompt, segment_points, segment_regions
from ..finders.text_grounding import (
    AttentionSource,
    BoxSource,
    DetectorSource,
    Grounded,
    RegionsSource,
    VlmSource,
    check_embedding,
    look_at_all,
    segment_all,
)  # fmt: skip
from ..language.prompt import parse_regions
from ..language.written_words import check_words
from ..masks.composition import join
from ..masks.outlines import SAM, Outlined, check_outline, outline_boxes
from ..settings import BEST
from .box_values import boxes_to_regions, numbers_in
from .regions import check_pictures


@dataclass(frozen=True, eq=False)
class BoxRequest:
    """What Segment Boxes is asked: regions or None; typed boxes; connected boxes or None; points on and off the thing;
    words for what has none."""

    regions: Regions | None
    boxes: str
    bboxes: Any
    inside: str
    outside: str
    phrase: str

    @property
    def points(self) -> SamPrompt:
        """The points alone."""
        return SamPrompt(
            inside=tuple(numbers_in(self.inside, 2, "points_inside")),  # type: ignore[arg-type]
            outside=tuple(numbers_in(self.outside, 2, "points_outside")),  # type: ignore[arg-type]
        )

    @property
    def named(self) -> str:
        return self.phrase.strip() or "object"

    def given(self, size: tuple[int, int], batch: int) -> Regions | None:
        """All boxes as regions of `batch` pictures of size `(H, W)`; None where there is none of any kind."""
        check_words(self.phrase, "phrase")
        typed = boxes_to_regions(numbers_in(self.boxes, 4, "boxes"), self.bboxes, self.named, size, batch)
        if self.regions is None and not len(typed) and self.bboxes is None:
            return None
        return typed if self.regions is None else join(self.regions, typed)


def outline_request(
    request: BoxRequest, outline: str, embedding: SamEmbedding | None, image: Tensor | None, choice: str
) -> Outlined:
    """Masks for boxes, and for points alone where there is no box and SAM outlines. RegionStyleError for an input that
    would be ignored, or that is missing."""
    check_outline(outline, embedding is not None)
    if outline == SAM:
        assert embedding is not None
        return Outlined(_segment(request, embedding, choice), "SAM")
    _check_no_sam(request, outline, embedding, choice)
    if image is None:
        raise wrong_input("image", "nothing", f"the picture, for outline {outline}", "Connect it.")
    images = images_of(image)
    given = request.given((int(images.shape[-2]), int(images.shape[-1])), len(images))
    if given is None:
        raise wrong_input("boxes", "none", "regions, bboxes or typed boxes", "Give a box around the thing.")
    check_pictures(given, images)
    return outline_boxes(images, given, outline)


def _check_no_sam(request: BoxRequest, outline: str, embedding: SamEmbedding | None, choice: str) -> None:
    """RegionStyleError for what only SAM reads."""
    points = request.points
    given = {
        "embedding": embedding is not None,
        "points": bool(points.inside or points.outside),
        "masks": choice != BEST,
    }
    if unused := [name for name, there in given.items() if there]:
        accepts = f"outline sam, since {outline} does not read it"
        raise wrong_input(", ".join(unused), "a value", accepts, "Leave it out, or choose sam.")


def _segment(request: BoxRequest, embedding: SamEmbedding, choice: str) -> Regions:
    """Masks by SAM for regions, typed boxes and connected boxes; for points alone where none of these is given."""
    given = request.given(embedding.size, len(embedding.features))
    if given is None:
        return segment_points(embedding, request.points, ComfyHost(), choice, request.named)
    return segment_regions(embedding, given, ComfyHost(), choice, request.points)


def ground_sentence(
    image: Tensor,
    sentence: str,
    embedding: SamEmbedding,
    sources: dict[str, Any],
    detector_settings: dino.DetectorSettings,
    choice: str,
    strict: bool,
) -> Grounded:
    """The regions of a sentence in every image of a batch.

    sources: what is connected of `detector`, `vlm`, `regions` and `denoiser` (model, clip, vae); exactly one must be.
    A denoiser looks with its experts off.
    """
    images, host = images_of(image), ComfyHost()
    check_embedding(embedding, images)
    name = _only_source(sources)
    given = sources[name]
    source: BoxSource
    if name == "denoiser":
        model, clip, vae = given
        predictor = ComfyPredictor(without_experts(model), clip, vae, host)
        with predictor.loaded():
            detections = look_at_all(images, AttentionSource(predictor, parse_regions(sentence)), host)
        return checked(segment_all(detections, embedding, host, choice), strict)
    if name == "vlm":
        source = VlmSource(given, sentence, host)
    elif name == "regions":
        check_pictures(given, images)
        source = RegionsSource(given, parse_regions(sentence))
    else:
        source = DetectorSource(given, parse_regions(sentence), host, detector_settings)
    return checked(segment_all(look_at_all(images, source, host), embedding, host, choice), strict)


def _only_source(sources: dict[str, Any]) -> str:
    """The one thing that is connected to find boxes with."""
    model, clip, vae = parts = sources["denoiser"]
    if 0 < sum(part is not None for part in parts) < 3:
        got = ", ".join(n for n, part in zip(("model", "clip", "vae"), parts, strict=True) if part is not None)
        raise wrong_input("model, clip, vae", f"only {got}", "all three of one model, or none", "Connect the others.")
    used = [name for name, value in sources.items() if (value if name != "denoiser" else model) is not None]
    if len(used) != 1:
        shown = ["model, clip and vae" if name == "denoiser" else name for name in used]
        accepts = "exactly one of: detector; vlm; regions; model with clip and vae"
        raise wrong_input("box finder", " and ".join(shown) or "nothing", accepts, "Connect what shall find the boxes.")
    return used[0]


def checked(grounded: Grounded, strict: bool) -> Grounded:
    """The same; RegionStyleError with its notice when something was not found and that is not allowed."""
    if grounded.notice and strict:
        raise RegionStyleError(
            f"sentence: {grounded.notice}. Use other words, lower a threshold, or switch strict off."
        )
    return grounded


def detect(
    detector: dino.Detector, image: Tensor, phrases: str, settings: dino.DetectorSettings, strict: bool
) -> tuple[Regions, str, str]:
    """All boxes of every phrase in every image of a batch, what was not found ("": nothing), and a line about all."""
    regions, seen = dino.find_phrases(detector, images_of(image), dino.phrases_of(phrases), ComfyHost(), settings)
    notice = not_found_notice(regions)
    if notice and strict:
        raise RegionStyleError(f"phrases: {notice}. Use other words, lower box_threshold, or switch strict off.")
    return regions, notice, "\n".join(filter(None, [notice, seen]))


def ask_vlm(model: vlm.Vlm, image: Tensor, prompt: str) -> tuple[Regions, str, str]:
    """What a model reads in a prompt and every picture of a batch: boxes as regions, "thing: style" lines, replies."""
    images, host = images_of(image), ComfyHost()
    size, progress = (int(images.shape[-2]), int(images.shape[-1])), host.progress(len(images), "reading")
    items, lines, replies = [], [], []
    for index, picture in enumerate(images):
        answer = vlm.ask(model, picture, prompt, host)
        for request, box in zip(answer.instruction.requests, answer.boxes, strict=True):
            items.append(_answered(request, box, size, index))
            lines.append(f"{request.phrase}: {request.style}")
        replies.append(answer.reply)
        progress.update(index + 1)
    return Regions(tuple(items), *size, len(images)), "\n".join(dict.fromkeys(lines)), "\n\n".join(replies)


def _answered(request: EditRequest, box: vlm.Corners | None, size: tuple[int, int], image: int) -> Region:
    if box is None:
        return missing_region(request.phrase, size, style=request.style, image=image)
    return Region.of_box(request.phrase, box, size, style=request.style, image=image)  # type: ignore[arg-type]
