"""Composites with a truth: a piece of a photograph whose foreground got other colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .jitter import Jitter, jittered
from .mask_shapes import SHAPES, drawn_mask, segment_mask
from .photographs import Photograph, read_photograph, segments

LEAST = 0.01  # mean change of a measured composite's foreground, in 0..1: no change has no PSNR
Scene = tuple[Tensor, Tensor]  # a picture `[3,h,w]` in 0..1 and the mask of one thing in it `[h,w]`, 0 or 1


@dataclass(frozen=True)
class Composite:
    """Composite and truth `[3,size,size]` in 0..1, mask `[1,size,size]` 0 or 1, and where they come from."""

    composite: Tensor
    truth: Tensor
    mask: Tensor
    photograph: str
    shape: str


def truth_and_mask(
    photographs: Sequence[Photograph], size: int, random: torch.Generator, shapes: Sequence[str] = SHAPES
) -> tuple[Tensor, Tensor, str, str]:
    """A random square of a photograph `[3,size,size]`, turned over or not, a mask `[size,size]`, both names.

    Its mask covers between half a percent and seven tenths of it.
    """
    weights = torch.tensor([photograph.weight for photograph in photographs])
    while True:
        photograph = photographs[int(torch.multinomial(weights, 1, generator=random))]
        picture = read_photograph(photograph)
        height, width = picture.shape[1:]
        side = int(min(height, width) * (0.45 + 0.55 * float(torch.rand(1, generator=random))))
        top, left = (int(torch.randint(n - side + 1, (1,), generator=random)) for n in (height, width))
        window = (slice(top, top + side), slice(left, left + side))
        shape = shapes[int(torch.randint(len(shapes), (1,), generator=random))]
        if shape == "segment":
            whole = segment_mask(segments(photograph)[window], random)
            mask = F.interpolate(whole[None, None], (size, size), mode="nearest-exact")[0, 0]
        else:
            mask = drawn_mask(shape, size, random)
        if 0.005 < float(mask.mean()) < 0.7:
            break
    piece = picture[:, window[0], window[1]]
    truth = F.interpolate(piece[None], (size, size), mode="bilinear", antialias=True)[0]
    if float(torch.rand(1, generator=random)) < 0.5:
        truth, mask = truth.flip(-1), mask.flip(-1)
    return truth.clamp(0, 1), mask, photograph.name, shape


def held_out_composites(photographs: Sequence[Photograph], count: int, size: int, seed: int = 0) -> list[Composite]:
    """Jittered composites of photographs, shape after shape in turn: the set that harmonisers are measured on."""
    made = []
    for index in range(count):
        random = torch.Generator().manual_seed(seed * 1_000_003 + index)
        photograph = photographs[index % len(photographs)]
        shape = SHAPES[(index // len(photographs)) % len(SHAPES)]
        truth, mask, name, shape = truth_and_mask([photograph], size, random, [shape])
        truth = (truth * 255).round() / 255
        changed = truth
        for _ in range(20):  # nothing changes black
            changed = jittered(truth[None], mask[None, None], random, Jitter())[0]
            if float(((changed - truth).abs().mean(0) * mask).sum() / mask.sum()) >= LEAST:
                break
        made.append(Composite(torch.where(mask[None] > 0.5, changed, truth), truth, mask[None], name, shape))
    return made
