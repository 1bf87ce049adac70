"""Boxes and points to masks with Segment Anything: encode a picture once, then ask it as often as wanted.

Pictures, boxes and points go through the package's own `SamPredictor`, one prompt at a time, so a mask equals the
predictor's bit for bit and does not depend on what else is asked. Sources: Kirillov et al., Segment Anything, ICCV
2023; LEAST (arXiv 2405.16330), section 3.1, which turns a phrase's box into its mask this way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import Host
from ...engine.region.region import Region
from ...engine.region.regions import Regions, region_of
from ...engine.sam_network import config_of, load_sam
from ..settings import BEST, MASK_CHOICES, SINGLE

CLEARED = 0.02  # a probability below this is 0: what lies far outside must stay out of the composite


@dataclass(frozen=True)
class SamNetwork:
    """A `segment_anything` Sam and what it is called."""

    sam: Any
    name: str


def load_network(path: Path) -> SamNetwork:
    """The network of a file in its authors' layout, on the CPU. RegionStyleError when it holds something else."""
    sam = load_sam(path)
    return SamNetwork(sam, config_of(sam.state_dict()).name)


@dataclass(frozen=True)
class SamEmbedding:
    """Encoded pictures of one size `(H, W)`: features `[1,C,h,w]` each, on the CPU, with the network they belong to.

    input_size: the pictures' height and width inside the network's square input.
    """

    network: SamNetwork
    features: tuple[Tensor, ...]
    input_size: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class SamPrompt:
    """What is asked of one picture: a box, points, or both. Pixels of the picture.

    box: x0, y0, x1, y1; inside and outside: points (x, y) on the thing and off it.
    """

    box: tuple[float, float, float, float] | None = None
    inside: tuple[tuple[float, float], ...] = ()
    outside: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class SamMask:
    """logits `[H,W]` at the picture's size (above 0 is inside), and the network's own estimate of the IoU."""

    logits: Tensor
    iou: float

    @property
    def soft(self) -> Tensor:
        """The probability `[H,W]` of belonging to the thing; below 2 percent it is 0."""
        probability = self.logits.sigmoid()
        return torch.where(probability < CLEARED, torch.zeros_like(probability), probability)


def encode(network: SamNetwork, images: Tensor, host: Host) -> SamEmbedding:
    """Encode images `[B,3,H,W]` in 0..1, one at a time: the expensive part, once per picture."""
    from segment_anything import SamPredictor

    host.load(network.sam)
    predictor, progress, features = SamPredictor(network.sam), host.progress(len(images), "SAM"), []
    for number, image in enumerate(images):
        host.check()
        predictor.set_image(_pixels(image))
        features.append(predictor.features.cpu())
        progress.update(number + 1)
    return SamEmbedding(network, tuple(features), predictor.input_size, predictor.original_size)


def _pixels(image: Tensor) -> Any:
    """An image `[3,H,W]` in 0..1 as the predictor takes it: uint8 `[H,W,3]`."""
    bytes_ = (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return bytes_.permute(1, 2, 0).contiguous().numpy()


class SamSegmenter:
    """Answers prompts about encoded pictures. Make one per run: it loads the network."""

    def __init__(self, embedding: SamEmbedding, host: Host, choice: str = BEST) -> None:
        """choice: one of `MASK_CHOICES`. "single" is the network's one mask for an unambiguous prompt; the others are
        its three masks for an ambiguous one (usually part, larger part and whole), or the best of them by predicted
        IoU."""
        from segment_anything import SamPredictor

        if choice not in MASK_CHOICES:
            raise wrong_input("masks", repr(choice), f"one of: {', '.join(MASK_CHOICES)}", "Choose one of these.")
        host.load(embedding.network.sam)
        self.embedding, self.choice, self._host = embedding, choice, host
        self._predictor = SamPredictor(embedding.network.sam)

    def ask(self, image: int, prompt: SamPrompt) -> SamMask:
        """The mask of a prompt in picture `image` of the batch. RegionStyleError for an empty or unfitting prompt."""
        answers = self.answers(image, prompt)
        return answers[self._chosen([answer.iou for answer in answers])]

    def ask_like(self, image: int, prompts: Sequence[SamPrompt], mask: Tensor) -> SamMask:
        """Of the answers to several prompts about one thing, the one that comes nearest to a rough mask `[H,W]` of it.

        Among the three masks of each prompt only where the choice is the best of them.
        """
        candidates = [
            answer
            for prompt in prompts
            for answer in (self.answers(image, prompt) if self.choice == BEST else [self.ask(image, prompt)])
        ]
        return max(candidates, key=lambda answer: soft_iou(answer.soft, mask))

    def answers(self, image: int, prompt: SamPrompt) -> list[SamMask]:
        """The one mask for the choice "single", otherwise all three."""
        import numpy as np

        self._host.check()
        self._show(image)
        points, labels = _points(prompt, self.embedding.size)
        box = None if prompt.box is None else np.array(_fitting_box(prompt.box, self.embedding.size), dtype=float)
        logits, ious, _ = self._predictor.predict(
            points, labels, box, multimask_output=self.choice != SINGLE, return_logits=True
        )
        return [SamMask(torch.from_numpy(mask), float(iou)) for mask, iou in zip(logits, ious, strict=True)]

    def _show(self, image: int) -> None:
        """Give the predictor the encoded picture, as its `set_image` would leave it."""
        predictor, embedding = self._predictor, self.embedding
        predictor.features = embedding.features[image].to(predictor.device)
        predictor.original_size, predictor.input_size = embedding.size, embedding.input_size
        predictor.is_image_set = True

    def _chosen(self, ious: Sequence[float]) -> int:
        if self.choice in (BEST, SINGLE):
            return max(range(len(ious)), key=ious.__getitem__)
        return min(MASK_CHOICES.index(self.choice) - 2, len(ious) - 1)


def soft_iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of soft masks `[H,W]`: sum of the smaller over sum of the larger values."""
    b = b.to(a)
    return float(torch.minimum(a, b).sum() / torch.maximum(a, b).sum().clamp(min=1e-6))


def _points(prompt: SamPrompt, size: tuple[int, int]) -> tuple[Any, Any]:
    """Coordinates `[N,2]` and labels `[N]` (1 on the thing, 0 off it), or None and None."""
    import numpy as np

    points = [*prompt.inside, *prompt.outside]
    if prompt.box is None and not prompt.inside:
        raise RegionStyleError(
            "prompt: got neither a box nor a point on the thing, expected at least one. Connect regions, type a box or "
            "a point; points off the thing only help where there is one of these."
        )
    for x, y in points:
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            accepts = f"x from 0 to {size[1] - 1} and y from 0 to {size[0] - 1}"
            raise wrong_input("points", (x, y), accepts, "Give the place in pixels, counted from the top left.")
    if not points:
        return None, None
    return np.array(points, dtype=float), np.array([1] * len(prompt.inside) + [0] * len(prompt.outside))


def _fitting_box(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The box as it is, when it covers something of the picture; the network takes fractions and overhang."""
    from ...engine.region.region import checked_box

    checked_box(tuple(box), size)
    x0, y0, x1, y1 = box
    return x0, y0, x1, y1


def segment_regions(
    embedding: SamEmbedding,
    regions: Regions,
    host: Host,
    choice: str = BEST,
    points: SamPrompt | None = None,
) -> Regions:
    """The regions with the mask of each one's box; the score is the finder's times the predicted IoU.

    points: given with every box that holds them (its `box` is not used). A region that was not found stays as it is.
    RegionStyleError when the regions are of other pictures, or when a point lies in no box.
    """
    size = (regions.height, regions.width)
    if size != embedding.size or regions.batch != len(embedding.features):
        got = f"{regions.batch} pictures of {regions.width} x {regions.height}"
        accepts = f"{len(embedding.features)} of {embedding.size[1]} x {embedding.size[0]}, as the encoded ones"
        raise wrong_input("regions", got, accepts, "Encode the picture that the regions were found in.")
    points = points or SamPrompt()
    _check_points_used(points, regions)
    segmenter, progress = SamSegmenter(embedding, host, choice), host.progress(len(regions), "SAM")
    items = []
    for number, region in enumerate(regions):
        items.append(_segmented(segmenter, region, points))
        progress.update(number + 1)
    return regions.with_items(items)


def _segmented(segmenter: SamSegmenter, region: Region, points: SamPrompt) -> Region:
    if region.score == 0 and not bool((region.mask > 0).any()):
        return region
    box = region.box
    prompt = replace(points, box=box, inside=_within(points.inside, box), outside=_within(points.outside, box))
    answer = segmenter.ask(region.image, prompt)
    score = region.score * min(max(answer.iou, 0.0), 1.0)
    return region_of(region.phrase, answer.soft, style=region.style, score=score, image=region.image)


def _within(points: Sequence[tuple[float, float]], box: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points if box[0] <= x < box[2] and box[1] <= y < box[3])


def _check_points_used(points: SamPrompt, regions: Regions) -> None:
    used = {point for region in regions for point in _within((*points.inside, *points.outside), region.box)}
    if unused := [point for point in (*points.inside, *points.outside) if point not in used]:
        boxes = ", ".join(str(region.box) for region in regions) or "none"
        accepts = f"points inside the boxes they help ({boxes})"
        raise wrong_input("points", unused, accepts, "Move them, or leave the regions away to use points alone.")


def segment_points(
    embedding: SamEmbedding, prompt: SamPrompt, host: Host, choice: str = BEST, phrase: str = "object"
) -> Regions:
    """One region per picture from points alone (or one box with points); the score is the predicted IoU."""
    segmenter, items = SamSegmenter(embedding, host, choice), []
    for image in range(len(embedding.features)):
        answer = segmenter.ask(image, prompt)
        items.append(region_of(phrase, answer.soft, score=min(max(answer.iou, 0.0), 1.0), image=image))
    return Regions(tuple(items), *embedding.size, len(embedding.features))
