"""Which timestep each iteration looks at, how much its gradient counts, and the latent's learning rate.

Source: SMS, arXiv:2503.07601, sections 3.2 and 3.3, algorithm 1, and the published code where it differs.

Timesteps are Stable Diffusion's, 0 to 1000; a predictor is asked at t / 1000, which means the same amount of noise in
every family (`engine/schedule.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..engine.errors import wrong_input
from .presets import Preset
from .settings import KINDS, LARGEST, SMALLEST, Kind

PUBLISHED_WARM_UP = 100  # iterations
STEEPEST = 5  # times the published rate, at most, at the first iteration of a short run
GRID_STEPS = 500  # the published code's sampler grid: every second of 1000 timesteps
LevelsOf = Callable[[Tensor], tuple[Tensor, Tensor]]


def upper_share(kind: Kind, done: float) -> float:
    """The part of t_max that is open at a share `done` (0..1) of the iterations: 1 - done when narrowing."""
    if kind not in KINDS:
        raise wrong_input("schedule", repr(kind), f"one of {list(KINDS)}", "'narrowing' is the paper's.")
    return 1.0 if kind == "uniform" else 1.0 - done


def draw_times(
    preset: Preset, kind: Kind, done: float, count: int, generator: torch.Generator, low: int = SMALLEST,
    high: int = LARGEST,
) -> Tensor:  # fmt: skip
    """Timesteps `[count]`, float64, each drawn by itself.

    done: share of the iterations that are over. "narrowing" draws below (1 - done) * high, "linear" takes that bound
    itself, "uniform" draws from the whole range. The grid holds the odd timesteps 2 index + 1.
    """
    share = upper_share(kind, done)
    if preset.times == "grid":
        first, end = int(GRID_STEPS * low / 1000), int(GRID_STEPS * high / 1000 * share)
        end = max(end, first + 1)
        drawn = torch.randint(first, end, (count,), generator=generator)
        index = torch.full((count,), end - 1) if kind == "linear" else drawn
        return (2 * index + 1).double()
    top = max(float(low), high * share)
    drawn = torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.full((count,), top, dtype=torch.float64) if kind == "linear" else low + drawn * (top - low)


def squared_alpha(levels: LevelsOf, times: Tensor) -> Tensor:
    """The paper's alpha-bar at timesteps `[B]`, float64: alpha^2 / (alpha^2 + sigma^2) for every family."""
    alpha, sigma = levels(times.double() / 1000)
    alpha, sigma = alpha.double() ** 2, sigma.double() ** 2
    return alpha / (alpha + sigma)


def style_weight(preset: Preset, levels: LevelsOf, times: Tensor) -> Tensor:
    """w_t at timesteps `[B]`, float64.

    "variance": (1 - abar_{t-2}) / (1 - abar_t) * beta_t, with beta_t = 1 - abar_t / abar_{t-1} of the fine schedule and
    t - 2 the neighbour on the grid, as the published code mixes them. "noise": 1 - abar_t.
    """
    now = squared_alpha(levels, times)
    if preset.weight == "noise":
        return 1 - now
    beta = 1 - now / squared_alpha(levels, times - 1)
    return (1 - squared_alpha(levels, times - 2)) / (1 - now) * beta


def frequency_limit(times: Tensor, height: int, width: int, high: int = LARGEST) -> Tensor:
    """The spectrum term's largest frequency at timesteps `[B]`, float64: the whole part of t (h + w - 2) / t_max."""
    # The product first: it is exact, where t / t_max is rounded and may bring a whole result below itself.
    return (times.double() * (height + width - 2) / high).floor()


def rate_share(iteration: int, iterations: int) -> float:
    """The share 0..1 of the latent's learning rate at an iteration (from 0) of a run.

    A rise over the first fifth, at most 100 iterations, then a cosine that would end at 1.5 times the run. From 500
    iterations on this is the published schedule: 100 iterations of linear rise, the first at a rate of 0. Runs of less
    than 100 rise along a power of the iteration, so that the first move is at most `STEEPEST` times the published one.
    """
    warm = max(2.0, min(PUBLISHED_WARM_UP, iterations / 5))
    if iteration < warm:
        power = max(1.0, math.log(PUBLISHED_WARM_UP / STEEPEST) / math.log(warm))
        return float((iteration / warm) ** power)
    return 0.5 * (1 + math.cos(math.pi * (iteration - warm) / (1.5 * iterations - warm)))
