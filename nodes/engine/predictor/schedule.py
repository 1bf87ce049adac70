"""Noise levels and what networks predict: the closed forms that every noise predictor shares.

The noisy latent is x = alpha * x0 + sigma * eps. Networks trained to predict noise or velocity ("v") keep
alpha^2 + sigma^2 = 1; rectified flow has alpha = 1 - s, sigma = s.

t means the same amount of noise in every family. Papers write t/1000 of Stable Diffusion's 1000 timesteps; a
rectified-flow network is asked where its log-SNR, 2 log(alpha / sigma), is that of Stable Diffusion at t
(`FlowSchedule`), so a method's t = 0.1 removes as much of a picture there as with Stable Diffusion. Networks with a
table of 1000 levels of their own are asked at their own timestep 1000 t, as their training and ComfyUI count.

The ends: at t = 0 every family still holds a little noise (sigma about 0.03), so eps is well determined there. At
t = 1 flow is pure noise (alpha = 0) and tables stop at their last step (alpha = 0.07 for Stable Diffusion, 2e-4 for
tables that end in pure noise). x0 from eps (`from_eps`), and eps from x0 (`from_denoised`), divide by alpha and by
sigma; the divisor is held at `SMALLEST`, so the result stays finite there but says little. `from_v` and `from_flow`
divide by nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import wrong_input

SMALLEST = 1e-4
TRAINED_STEPS = 1000
# The squared alpha that ComfyUI gives the last step of a schedule that ends in pure noise (arXiv:2305.08891).
ZERO_TERMINAL = 4.8973451890853435e-08
# Stable Diffusion's schedule: the betas' square roots rise evenly between those of these two (arXiv:2112.10752).
REFERENCE_BETAS = (0.00085, 0.012)
Time = float | Tensor


@dataclass(frozen=True)
class Prediction:
    """What a network says about x: its noise and its clean latent, both `[B,C,h,w]` in x's dtype."""

    eps: Tensor
    denoised: Tensor


class Schedule(Protocol):
    """Which alpha and sigma belong to t in 0..1."""

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """alpha and sigma, shaped like t; float64 for a float64 tensor, otherwise float32."""


@dataclass(frozen=True, eq=False)
class TableSchedule:
    """1000 trained timesteps; t = timestep / 1000. log_ratios `[1000]`: log(sigma / alpha) in float64, rising."""

    log_ratios: Tensor

    @classmethod
    def of_alphas_cumprod(cls, alphas_cumprod: Tensor) -> TableSchedule:
        """From squared alphas `[1000]`; a schedule that ends in pure noise ends at ComfyUI's value instead."""
        squared = alphas_cumprod.double().clamp_min(ZERO_TERMINAL)
        return cls(((1 - squared).log() - squared.log()) / 2)

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """Linear in log(sigma / alpha) between the entries, constant beyond them."""
        return alpha_sigma_of_table(self.log_ratios, t)


class FlowSchedule:
    """Rectified flow: alpha = 1 - s, sigma = s, with s / (1 - s) = Stable Diffusion's sigma / alpha at t.

    That table ends at t = 0.999, s = 0.936; from there s rises linearly to 1, since flow starts from pure noise.
    """

    def alpha_sigma(self, t: Time) -> tuple[Tensor, Tensor]:
        """1 - s and s. s rises with t from 0.028 at t = 0 to 1 at t = 1."""
        dtype = _result_dtype(t)
        t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
        alpha, sigma = alpha_sigma_of_table(_reference_log_ratios(), t.double())
        beyond = (t.double() * TRAINED_STEPS - (TRAINED_STEPS - 1)).clamp(0, 1)
        level = torch.lerp(sigma / (alpha + sigma), torch.ones_like(sigma), beyond)
        return (1 - level).to(dtype), level.to(dtype)

    def time_of(self, level: Tensor) -> Tensor:
        """t of noise levels s in 0..1, the inverse of `alpha_sigma`; 0 below the level that t = 0 has, 0.028."""
        level, table = level.double(), _reference_log_ratios()
        last = table[-1].sigmoid()
        ratio = level.clamp(1e-12, float(last)).logit()
        above = torch.searchsorted(table, ratio).clamp(1, TRAINED_STEPS - 1)
        between = (ratio - table[above - 1]) / (table[above] - table[above - 1])
        beyond = ((level - last) / (1 - last)).clamp(0, 1)
        position = (above - 1 + between).clamp(0, TRAINED_STEPS - 1) + beyond
        return (position / TRAINED_STEPS).to(_result_dtype(level))


def _reference_log_ratios() -> Tensor:
    low, high = (beta**0.5 for beta in REFERENCE_BETAS)
    betas = torch.linspace(low, high, TRAINED_STEPS, dtype=torch.float64) ** 2
    return TableSchedule.of_alphas_cumprod((1 - betas).cumprod(0)).log_ratios


def like(value: Tensor, x: Tensor) -> Tensor:
    """A 0-dimensional or `[B]` value on x's device, at least float32, shaped to multiply x `[B,...]`.

    Never 0-dimensional: torch multiplies half precision by that in half precision.
    """
    value = value.to(x.device, torch.promote_types(x.dtype, torch.float32))
    return value.reshape(-1, *[1] * (x.ndim - 1))


def from_eps(x: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a network that gives the noise; alpha, sigma 0-dimensional or `[B]`."""
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction(eps.to(x.dtype), ((x - sigma * eps) / alpha.clamp_min(SMALLEST)).to(x.dtype))


def from_v(x: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a network that gives v = alpha * eps - sigma * x0 (Salimans and Ho, arXiv:2202.00512).

    Uses alpha^2 + sigma^2 = 1.
    """
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction((sigma * x + alpha * v).to(x.dtype), (alpha * x - sigma * v).to(x.dtype))


def from_flow(x: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a rectified-flow network, which gives v = eps - x0 (Liu et al., arXiv:2209.03003).

    Uses alpha + sigma = 1.
    """
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction((x + alpha * v).to(x.dtype), (x - sigma * v).to(x.dtype))


def from_denoised(x: Tensor, denoised: Tensor, alpha: Tensor, sigma: Tensor) -> Prediction:
    """The prediction of a network, or of a host, that gives the clean latent."""
    alpha, sigma = like(alpha, x), like(sigma, x)
    return Prediction(((x - alpha * denoised) / sigma.clamp_min(SMALLEST)).to(x.dtype), denoised.to(x.dtype))


# Prediction from (x, output, alpha, sigma), by what the network was trained to give.
CONVERSIONS = {"eps": from_eps, "v": from_v, "flow": from_flow}


def timestep_of(t: Time) -> Tensor:
    """The table position t * 1000, cut to 0..999; float64 for numbers. RegionStyleError for t outside 0..1."""
    t = t if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64)
    if t.numel() and not bool(((t >= 0) & (t <= 1)).all()):  # also NaN
        accepts = "0 (clean) to 1 (noise)"
        raise wrong_input("t", t.flatten().tolist()[:8], accepts, "Divide timesteps of 0 to 1000 by 1000.")
    return (t * TRAINED_STEPS).clamp(0, TRAINED_STEPS - 1)


def alpha_sigma_of_table(log_ratios: Tensor, t: Time) -> tuple[Tensor, Tensor]:
    """alpha and sigma at t from a table `[1000]` of log(sigma / alpha), as ComfyUI's ModelSamplingDiscrete reads it.

    Linear between the entries, constant beyond them: t = 0 still holds a little noise.
    """
    position = timestep_of(t)
    table = log_ratios.to(position.device)
    low = position.floor().long()
    log_ratio = torch.lerp(table[low], table[(low + 1).clamp_max(len(table) - 1)], (position - low).to(table.dtype))
    alpha, sigma = (-2 * log_ratio).sigmoid().sqrt(), (2 * log_ratio).sigmoid().sqrt()
    return alpha.to(_result_dtype(t)), sigma.to(_result_dtype(t))


def _result_dtype(t: Time) -> torch.dtype:
    return torch.float64 if isinstance(t, Tensor) and t.dtype == torch.float64 else torch.float32
