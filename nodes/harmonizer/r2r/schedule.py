"""Noise levels and Euler steps of R2R's sampler: Stable Diffusion's schedule at evenly spaced timesteps.

x = x0 + sigma * eps; the network sees x / sqrt(sigma^2 + 1). Euler Ancestral is Algorithm 2 of k-diffusion
(arXiv:2206.00364's Euler step, with the noise put back), which the published code samples with; the paper says Euler.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.predictor.schedule import REFERENCE_BETAS, TRAINED_STEPS


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """timesteps `[n]` falling from 999 to 0; sigmas `[n + 1]`, the last one 0; float64."""

    timesteps: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


def alphas_cumprod() -> Tensor:
    """The squared alphas `[1000]` of the training, float64."""
    low, high = (beta**0.5 for beta in REFERENCE_BETAS)
    betas = torch.linspace(low, high, TRAINED_STEPS, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def noise_levels(steps: int) -> NoiseLevels:
    """Evenly spaced timesteps, both ends included ("linspace"). RegionStyleError for fewer than 1."""
    if steps < 1:
        raise wrong_input("steps", steps, "1 or more", "10 are the published number.")
    timesteps = torch.linspace(TRAINED_STEPS - 1, 0, steps, dtype=torch.float64)
    squared = alphas_cumprod()
    table = ((1 - squared) / squared).sqrt()
    below = timesteps.floor().long()
    above = (below + 1).clamp_max(TRAINED_STEPS - 1)
    sigmas = torch.lerp(table[below], table[above], timesteps - below)
    return NoiseLevels(timesteps, torch.cat([sigmas, sigmas.new_zeros(1)]))


def scaled_input(x: Tensor, sigma: float) -> Tensor:
    """x as the network expects it."""
    return x / (sigma**2 + 1) ** 0.5


def euler_step(x: Tensor, eps: Tensor, sigma: float, following: float, noise: Tensor | None = None) -> Tensor:
    """x at one level brought to the following one; with noise `[B,4,h,w]` ancestral, without it deterministic."""
    up = 0.0 if noise is None else (following**2 * (sigma**2 - following**2) / sigma**2) ** 0.5
    down = (following**2 - up**2) ** 0.5
    x = x + eps * (down - sigma)
    return x if noise is None or up == 0 else x + up * noise
