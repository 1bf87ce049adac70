"""Stage `sam`: the tiny world's Segment Anything, from boxes and points to the visible mask of a thing.

The loss is the paper's (Kirillov et al., Segment Anything, ICCV 2023, appendix A): 20 parts focal loss and 1 part dice
loss per mask, of the three masks only the one with the lowest counts, and the mean squared error of the predicted IoU,
which is taught for every mask. The single mask is taught by prompts that leave no doubt (a box, or several points).
Boxes are moved at random by up to a tenth of their sides, as annotators' and detectors' boxes are off; points lie
anywhere on the thing, every other first one well inside it, where people click; further ones lie on it or beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.region.inner_points import inner_point
from ..styles import STYLES, apply_style
from ..tiny_sam import new_tiny_sam
from ..world import SIZE, Scene
from .pool import Pool

FOCAL_WEIGHT, FOCAL_GAMMA, FOCAL_ALPHA = 20.0, 2.0, 0.25
MOST_SHIFT = 0.1
SMALLEST = 24  # pixels a thing must show to be asked for
STYLED = 0.15  # share of pictures that are wholly restyled: what is segmented later may be a result of this pack
KINDS = ("box", "point", "points", "both")
KIND_ODDS = (0.4, 0.4, 0.1, 0.1)
UNAMBIGUOUS = ("box", "points", "both")


@dataclass
class Ask:
    """One prompt: picture index, mask `[S,S]` in 0..1, box `[4]`, points `[3,2]` and labels `[3]` (-1: no point)."""

    picture: int
    mask: np.ndarray
    kind: str
    box: np.ndarray
    points: np.ndarray
    labels: np.ndarray


def build() -> nn.ModuleDict:
    """The network to train."""
    return nn.ModuleDict({"sam": new_tiny_sam().train()})


def moved_box(mask: np.ndarray, random: np.random.Generator, most: float = MOST_SHIFT) -> np.ndarray:
    """The box of a mask, x0, y0, x1, y1, each side moved by a normal share of the box, `most` at the utmost."""
    rows, columns = np.where(mask.max(1) > 0.5)[0], np.where(mask.max(0) > 0.5)[0]
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float32)
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    shift = np.clip(random.normal(0, most / 2, 4), -most, most) * sides
    return np.clip(box + shift, 0, SIZE).astype(np.float32)


def drawn_points(mask: np.ndarray, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Up to three points `[3,2]` (x, y) and labels `[3]`: the first on the thing, further ones on or off it."""
    points, labels = np.zeros((3, 2), dtype=np.float32), np.full(3, -1, dtype=np.int64)
    for number in range(count):
        if number == 0 and random.random() < 0.5:
            points[0], labels[0] = inner_point(torch.from_numpy(mask)), 1
            continue
        on = number == 0 or random.random() < 0.5
        rows, columns = np.where(mask > 0.8 if on else mask < 0.05)
        if len(rows):
            pixel = int(random.integers(len(rows)))
            points[number], labels[number] = (columns[pixel], rows[pixel]), int(on)
    return points, labels


def draw_asks(scene: Scene, picture: int, count: int, random: np.random.Generator) -> list[Ask]:
    """`count` prompts about the things of a scene that can be seen; none when nothing can."""
    masks = [thing.mask for thing in scene.objects if (thing.mask > 0.8).sum() >= SMALLEST]
    asks = []
    for _ in range(count if masks else 0):
        mask, kind = masks[int(random.integers(len(masks)))], str(random.choice(KINDS, p=KIND_ODDS))
        points = {"box": 0, "point": 1, "points": int(random.integers(2, 4)), "both": 1}[kind]
        asks.append(Ask(picture, mask, kind, moved_box(mask, random), *drawn_points(mask, points, random)))
    return asks


def predict(sam: Any, images: Tensor, asks: list[Ask]) -> tuple[Tensor, Tensor]:
    """Mask logits `[N,M,s,s]` (first the single mask, then the three) and predicted IoU `[N,M]`.

    images `[B,3,S,S]` in 0..1. Prompts of one kind go together; the answers are in the order of `asks`.
    """
    features = sam.image_encoder((images * 255 - sam.pixel_mean) / sam.pixel_std)
    logits: list[Tensor] = [features] * len(asks)
    ious: list[Tensor] = [features] * len(asks)
    for kind in KINDS:
        indices = [i for i, ask in enumerate(asks) if ask.kind == kind]
        if indices:
            answer = _predict_kind(sam, features, [asks[i] for i in indices])
            for i, mask, iou in zip(indices, *answer, strict=True):
                logits[i], ious[i] = mask, iou
    return torch.stack(logits), torch.stack(ious)


def _predict_kind(sam: Any, features: Tensor, asks: list[Ask]) -> tuple[Tensor, Tensor]:
    device = features.device
    points = torch.from_numpy(np.stack([ask.points for ask in asks])).to(device)
    labels = torch.from_numpy(np.stack([ask.labels for ask in asks])).to(device)
    used = int((labels >= 0).any(0).sum())
    boxes = torch.from_numpy(np.stack([ask.box for ask in asks])).to(device)
    sparse, dense = sam.prompt_encoder(
        points=(points[:, :used], labels[:, :used]) if used else None,
        boxes=boxes if asks[0].kind in ("box", "both") else None,
        masks=None,
    )
    # The decoder takes one picture and adds each prompt's dense embedding to it: with a picture of zeros, what is
    # added may be another picture for each prompt.
    own = features[[ask.picture for ask in asks]]
    return sam.mask_decoder.predict_masks(
        image_embeddings=torch.zeros_like(features[:1]),
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + own,
    )


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Per mask, the mean over its pixels: logits, target `[...,h,w]` -> `[...]` (Lin et al., ICCV 2017)."""
    error = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    miss = probability * (1 - target) + (1 - probability) * target
    weight = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    return (weight * miss**FOCAL_GAMMA * error).mean((-2, -1))


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Per mask: logits, target `[...,h,w]` -> `[...]` (Milletari et al., 3DV 2016)."""
    probability = logits.sigmoid()
    shared = 2 * (probability * target).sum((-2, -1)) + 1
    return 1 - shared / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of the thresholded masks `[...,h,w]` -> `[...]`; no gradient."""
    inside, true = logits.detach() > 0, target > 0.5
    union = (inside | true).sum((-2, -1)).clamp(min=1)
    return (inside & true).sum((-2, -1)) / union


class SamLoss:
    """Draws scenes and prompts and scores the answers; `self(step)` is what `Trainer` calls."""

    def __init__(self, modules: nn.ModuleDict, pool: Pool, pictures: int = 8, prompts: int = 4, seed: int = 5) -> None:
        self.sam: Any = modules["sam"]
        self.pool, self.pictures, self.prompts, self.seed = pool, pictures, prompts, seed

    def draw(self, random: np.random.Generator) -> tuple[Tensor, list[Ask]]:
        """Pictures `[B,3,S,S]` and prompts about them; half of the scenes are mirrored."""
        images: list[np.ndarray] = []
        asks: list[Ask] = []
        while len(images) < self.pictures:
            scene = _varied(self.pool.scene(int(random.integers(len(self.pool)))), random)
            if new := draw_asks(scene, len(images), self.prompts, random):
                images.append(scene.image)
                asks.extend(new)
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), asks

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        images, asks = self.draw(np.random.default_rng([self.seed, step]))
        logits, predicted = predict(self.sam, images.to(self.sam.device), asks)
        logits = F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)
        target = torch.from_numpy(np.stack([ask.mask for ask in asks])).to(logits)[:, None].expand_as(logits)
        each = FOCAL_WEIGHT * focal_loss(logits, target) + dice_loss(logits, target)
        clear = torch.tensor([ask.kind in UNAMBIGUOUS for ask in asks], device=logits.device)
        best = each[:, 1:].min(1)
        single = (each[:, 0] * clear).sum() / clear.sum().clamp(min=1)
        iou = mask_iou(logits, target)
        loss = best.values.mean() + single + F.mse_loss(predicted, iou)
        chosen = iou[:, 1:].gather(1, predicted[:, 1:].argmax(1, keepdim=True))
        return loss, {
            "iou": float(chosen.mean()),
            "iou_single": float((iou[:, 0] * clear).sum() / clear.sum().clamp(min=1)),
        }


def _varied(scene: Scene, random: np.random.Generator) -> Scene:
    """The scene, now and then restyled, half of the time mirrored."""
    image = scene.image
    if random.random() < STYLED:
        image = apply_style(image, str(random.choice(list(STYLES)))).astype(np.float32)
    if random.random() < 0.5:
        return replace(scene, image=image)
    things = tuple(replace(thing, mask=np.ascontiguousarray(thing.mask[:, ::-1])) for thing in scene.objects)
    return replace(scene, image=np.ascontiguousarray(image[:, ::-1]), objects=things)
