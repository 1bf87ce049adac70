"""Phrases to boxes with Grounding DINO, through `transformers`.

Every phrase is asked by itself: its boxes are its own, and do not depend on what else is asked for. Source: Liu et al.,
Grounding DINO (arXiv 2303.05499); it takes the place of LEAST's vision-language model (arXiv 2405.16330, section 3.1)
and, unlike that, says when a thing is not there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import Host
from ...engine.region.region import Region
from ...engine.region.regions import Regions, missing_region
from ..language.written_words import LONGEST_SENTENCE, check_parts, check_words
from ..settings import DetectorSettings
from .network_folders import model_type

MODEL_TYPES = ("grounding-dino", "mm-grounding-dino")
PUBLIC_FOLDERS = ("IDEA-Research/grounding-dino-tiny", "IDEA-Research/grounding-dino-base")
OVERLAP = 0.6  # of two boxes with a larger IoU only the better one is kept


@dataclass(frozen=True)
class Detector:
    """A `GroundingDinoForObjectDetection` with its processor, and the folder's name."""

    model: Any
    processor: Any
    name: str


@dataclass(frozen=True)
class Boxes:
    """regions: one per box, the best first; seen: the words of the phrase that were seen in each of them."""

    regions: tuple[Region, ...]
    seen: tuple[str, ...]


def load_detector(folder: Path) -> Detector:
    """The network in a folder as `save_pretrained` writes it; nothing is fetched, no code from the folder is run.

    RegionStyleError when it holds another kind of network or lacks a file.
    """
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

    kind = model_type(folder)
    if kind not in MODEL_TYPES:
        remedy = f"Use a folder of {' or '.join(PUBLIC_FOLDERS)}."
        raise wrong_input("detector", f"{folder.name}, a {kind!r}", f"one of: {', '.join(MODEL_TYPES)}", remedy)
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        model = AutoModelForZeroShotObjectDetection.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except Exception as error:  # transformers, torch and safetensors raise many kinds for a broken file
        raise RegionStyleError(
            f"detector: {folder} cannot be loaded ({str(error)[:300]}). It must hold every file of "
            f"{' or '.join(PUBLIC_FOLDERS)}."
        ) from error
    return Detector(model.eval().requires_grad_(False), processor, folder.name)


def phrases_of(text: str) -> tuple[str, ...]:
    """The phrases in a text: one per line, or between full stops, commas and semicolons ("a cat. a dog.", "cat, dog").

    "3.5" and "3,5" are numbers. RegionStyleError when there is none, for too many or too long ones, and for signs of
    another program such as prompt weights.
    """
    check_words(text, "phrases", LONGEST_SENTENCE)
    parts = (part.strip() for part in re.split(r"(?<!\d)[.,]|[.,](?!\d)|[;\n]", text))
    phrases = tuple(dict.fromkeys(part for part in parts if part))
    if not phrases:
        raise wrong_input("phrases", repr(text), "words for the things to find", "Type for example: a cat. a dog.")
    check_parts(len(phrases), "phrases")
    for phrase in phrases:
        check_words(phrase, "phrases")
    return phrases


def find_boxes(
    detector: Detector, image: Tensor, phrase: str, host: Host, settings: DetectorSettings, index: int = 0
) -> Boxes:
    """The boxes of a phrase in a picture `[3,H,W]` in 0..1, the best first; index: the picture's place in its batch.

    Scores are probabilities. The masks are 1 inside the boxes.
    """
    host.check()
    inputs = _inputs(detector, image, phrase)
    with torch.no_grad():
        outputs = detector.model(**inputs.to(host.device))
    size = (image.shape[-2], image.shape[-1])
    detected = _read_outputs(detector, outputs, inputs, size, settings)
    kept = _without_overlaps(detected["boxes"], detected["scores"])[: settings.most]
    regions, seen = [], []
    for number in kept:
        words = detected["text_labels"][number].strip()
        if words and (
            region := _region(phrase, detected["boxes"][number], float(detected["scores"][number]), size, index)
        ):
            regions.append(region)
            seen.append(words)
    return Boxes(tuple(regions), tuple(seen))


def _inputs(detector: Detector, image: Tensor, phrase: str) -> Any:
    """Processor's tensors of a picture and "PHRASE ." in lower case, as the network was trained."""
    from ...engine.host.comfy import to_pil

    inputs = detector.processor(images=to_pil(image), text=f"{phrase.lower().strip(' .')}.", return_tensors="pt")
    length, most = inputs["input_ids"].shape[1], detector.model.config.max_text_len
    if length > most:
        raise wrong_input("phrase", f"{length} tokens: {phrase[:60]!r}...", f"{most} tokens or fewer", "Shorten it.")
    return inputs


def _read_outputs(
    detector: Detector, outputs: Any, inputs: Any, size: tuple[int, int], settings: DetectorSettings
) -> dict[str, Any]:
    """scores, boxes (corners in pixels) and text_labels (the words seen) of the boxes above the threshold."""
    import inspect

    read = detector.processor.post_process_grounded_object_detection
    # transformers called it box_threshold until 4.51
    name = "threshold" if "threshold" in inspect.signature(read).parameters else "box_threshold"
    thresholds = {name: settings.box_threshold, "text_threshold": settings.text_threshold}
    found = read(outputs, inputs["input_ids"], target_sizes=[size], **thresholds)[0]
    labels = found["text_labels"] if "text_labels" in found else found["labels"]
    return {"scores": found["scores"].cpu(), "boxes": found["boxes"].cpu(), "text_labels": labels}


def _without_overlaps(boxes: Tensor, scores: Tensor) -> list[int]:
    """Non-maximum suppression: the places of the boxes that are kept, the best first."""
    from torchvision.ops import nms

    return [int(index) for index in nms(boxes.float(), scores.float(), OVERLAP)]


def _region(phrase: str, box: Tensor, score: float, size: tuple[int, int], index: int) -> Region | None:
    """The box cut to the picture; None when less than a pixel of it lies inside."""
    x0, y0, x1, y1 = (float(value) for value in box)
    x0, y0, x1, y1 = max(x0, 0.0), max(y0, 0.0), min(x1, float(size[1])), min(y1, float(size[0]))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    return Region.of_box(phrase, (x0, y0, x1, y1), size, score=score, image=index)  # type: ignore[arg-type]


def find_phrases(
    detector: Detector, images: Tensor, phrases: Sequence[str], host: Host, settings: DetectorSettings | None = None
) -> tuple[Regions, str]:
    """Every box of every phrase in every picture `[B,3,H,W]`, and a line about what was seen.

    Items are ordered by phrase, then picture, then score. A phrase without a box in a picture is an empty region there.
    """
    settings = settings or DetectorSettings()
    host.load(detector.model)
    progress = host.progress(len(phrases) * len(images), "Grounding DINO")
    items: list[Region] = []
    lines: list[str] = []
    for number, phrase in enumerate(phrases):
        for index, image in enumerate(images):
            boxes = find_boxes(detector, image, phrase, host, settings, index)
            items += boxes.regions or (missing_region(phrase, tuple(image.shape[-2:]), image=index),)
            lines += [f"{phrase!r} in image {index}: {_shown(boxes)}"] if boxes.regions else []
            progress.update(number * len(images) + index + 1)
    return Regions(tuple(items), images.shape[-2], images.shape[-1], len(images)), "; ".join(lines)


def _shown(boxes: Boxes) -> str:
    """Scores and seen words of the first boxes."""
    shown = [f"{region.score:.2f} ({words})" for region, words in zip(boxes.regions, boxes.seen, strict=True)]
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
