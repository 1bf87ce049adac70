"""The terms of the style matching score on latents (SMS, arXiv:2503.07601, sections 3.2 to 3.5).

Losses are one number per picture, `[B]`, so that the pictures of a batch do not weigh on each other.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...kernels import spectrum_distance


def guided_noise(prompted: Tensor, empty: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance on noise predictions `[B,C,h,w]`."""
    return empty + guidance * (prompted - empty)


def style_gradient(style: Tensor, fake: Tensor, weight: Tensor) -> Tensor:
    """w_t (eps_style - eps_fake) `[B,C,h,w]`, weight `[B]`; what is not a number becomes 0 (section 3.2)."""
    return torch.nan_to_num(weight.to(style).reshape(-1, 1, 1, 1) * (style - fake))


def relevance_map(
    edited: Tensor, empty: Tensor, order: Literal["mean_first", "absolute_first"], seen: Tensor | None = None
) -> Tensor:
    """Where the instruction to restyle changes the prediction for the source, `[B,1,h,w]` in 0..1.

    The size of the difference, averaged over channels and stretched to 0..1 per picture; 1 everywhere if it is flat.
    seen `[h,w]`, bool: where anything was predicted (None: everywhere); the rest has no part in the stretching.
    Source: section 3.4; the order of mean and absolute value as the preset says.
    """
    difference = edited - empty
    size = difference.mean(1, keepdim=True).abs() if order == "mean_first" else difference.abs().mean(1, keepdim=True)
    least = size if seen is None else size.masked_fill(~seen.to(size.device), torch.inf)
    low, high = least.amin((-2, -1), keepdim=True), size.amax((-2, -1), keepdim=True)
    stretched = (size - low).clamp_min(0) / (high - low).clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(high > low, stretched, torch.ones_like(size))


def style_loss(latent: Tensor, gradient: Tensor) -> Tensor:
    """Half the mean square distance to the detached target latent - gradient: its gradient is that / numel."""
    target = (latent - gradient).detach()
    return 0.5 * (latent - target).square().flatten(1).mean(1)


def spectrum_loss(latent: Tensor, source: Tensor, limit: Tensor, power: int, region: Tensor | None = None) -> Tensor:
    """How far the low frequencies have moved from the source's (section 3.3), `[B]`.

    limit `[B]`: largest frequency u + v that counts; region `[B or 1,1,h,w]`: weighs the difference before the
    transform, so that only the region's own change counts.
    """
    moved = latent - source if region is None else (latent - source) * region
    zero = torch.zeros_like(moved[:1])
    pictures = zip(moved.split(1), limit.tolist(), strict=True)
    return torch.stack([spectrum_distance(picture, zero, bound, power=power) for picture, bound in pictures])


def latent_loss(latent: Tensor, source: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean square distance from the source `[B]`: what the paper compares its spectrum term with."""
    moved = latent - source if region is None else (latent - source) * region
    return moved.square().flatten(1).mean(1)


def fake_loss(
    predicted: Tensor, noise: Tensor, weight: Tensor, share: Tensor | None = None, places: int | None = None
) -> Tensor:
    """Mean square of weight * (prediction - noise) `[B]`, with which the fake one follows the picture (section 3.2).

    share `[n,n]`: of a tile that is one of several, how much it counts at each place; the mean is then over `places`,
    those of all tiles.
    """
    squares = (weight.to(predicted).reshape(-1, 1, 1, 1) * (predicted - noise)).square()
    if share is None or places is None:
        return squares.flatten(1).mean(1)
    return (squares.mean(1) * share.to(squares)).flatten(1).sum(1) / places
