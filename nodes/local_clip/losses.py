"""The terms of masked CLIP optimisation (LEAST, arXiv:2405.16330, section 3.2; CLIPstyler, arXiv:2112.00374).

All in float32, or float64 where that is given. E is an embedding, dT the direction from a photograph to the style.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .presets import ContentDistance

# A difference of two unit embeddings that is shorter than this has no direction worth following: its gradient would
# be a thousand times larger than any other, and Adam would remember it for as many iterations.
SHORTEST = 1e-2


def exact(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor, shortest: float = SHORTEST) -> Tensor:
    """Vectors `[...,D]` of length 1; shorter ones than `shortest` are divided by that."""
    return F.normalize(exact(x), dim=-1, eps=shortest)


def direction_losses(embeddings: Tensor, before: Tensor, direction: Tensor) -> Tensor:
    """1 - cos(unit(E - E_before), dT), `[N]`: unit embeddings `[N,D]`, those of the content `[N or 1,D]`, dT `[D]`."""
    return 1 - unit(embeddings - before) @ unit(direction).to(embeddings)


def without_satisfied(losses: Tensor, threshold: float) -> Tensor:
    """Losses `[N]` with those below the threshold set to 0: what is near enough to the style is not pushed further."""
    return torch.where(losses < threshold, torch.zeros_like(losses), losses)


def content_loss(maps: Sequence[Tensor], before: Sequence[Tensor], distance: ContentDistance) -> Tensor:
    """How far two layers have moved from the content's: summed mean squares, or the paper's norms."""
    moved = [exact(a) - exact(b) for a, b in zip(maps, before, strict=True)]
    each = [m.square().mean() if distance == "mean square" else torch.linalg.vector_norm(m) for m in moved]
    return torch.stack(each).sum()


def total_variation(x: Tensor) -> Tensor:
    """Norms (neither squared nor averaged) of the differences along rows, columns and both diagonals of `[B,C,H,W]`."""
    x = exact(x)
    across, down = x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]
    rising, falling = x[..., 1:, :-1] - x[..., :-1, 1:], x[..., :-1, :-1] - x[..., 1:, 1:]
    return torch.stack([torch.linalg.vector_norm(d) for d in (across, down, rising, falling)]).sum()
