"""Noise levels and conversions against closed forms in float64."""

import math

import pytest
import torch

from regionstyle.nodes.engine.predictor.schedule import (
    SMALLEST,
    FlowSchedule,
    TableSchedule,
    from_denoised,
    from_eps,
    from_flow,
    from_v,
)

LEVELS = [0.0, 1e-3, 0.02, 0.35, 0.5, 0.9, 0.999]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stable_diffusion_ratio(step):
    """sigma / alpha of Stable Diffusion at a whole timestep, by the definition of its betas, without torch."""
    product = 1.0
    for at in range(step + 1):
        product *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * at / 999) ** 2
    return math.sqrt((1 - product) / product)


def table():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return TableSchedule.of_alphas_cumprod((1 - betas).cumprod(0))


def latents(alpha, sigma):
    x0, eps = noise(3, 4, 5, 6), noise(3, 4, 5, 6, seed=1)
    wide = [value.reshape(-1, 1, 1, 1) for value in (alpha, sigma)]
    return wide[0] * x0 + wide[1] * eps, x0, eps, *wide


@pytest.mark.parametrize("t", LEVELS)
def test_variance_preserving_conversions_are_exact(t):
    alpha, sigma = table().alpha_sigma(torch.full((3,), t, dtype=torch.float64))
    assert torch.equal((alpha**2 + sigma**2 - 1).abs() < 1e-15, torch.ones(3).bool())
    x, x0, eps, a, s = latents(alpha, sigma)
    for result in (from_eps(x, eps, alpha, sigma), from_v(x, a * eps - s * x0, alpha, sigma),
                   from_denoised(x, x0, alpha, sigma)):  # fmt: skip
        assert (result.eps - eps).abs().max() < 1e-12
        assert (result.denoised - x0).abs().max() < 1e-12


@pytest.mark.parametrize("t", [*LEVELS, 0.9995, 1.0])
def test_flow_conversions_are_exact(t):
    alpha, sigma = FlowSchedule().alpha_sigma(torch.full((3,), t, dtype=torch.float64))
    assert (alpha + sigma - 1).abs().max() < 1e-15
    x, x0, eps, a, s = latents(alpha, sigma)
    for result in (from_flow(x, eps - x0, alpha, sigma), from_denoised(x, x0, alpha, sigma)):
        assert (result.eps - eps).abs().max() < 1e-12
        assert (result.denoised - x0).abs().max() < 1e-12


@pytest.mark.parametrize("step", [0, 1, 20, 350, 500, 900, 999])
def test_t_means_the_same_signal_to_noise_in_every_family(step):
    t = torch.tensor(step / 1000, dtype=torch.float64)
    for schedule in (table(), FlowSchedule()):
        alpha, sigma = schedule.alpha_sigma(t)
        assert alpha.dtype == torch.float64
        assert float(sigma / alpha) == pytest.approx(stable_diffusion_ratio(step), rel=1e-9)


def test_flow_rises_to_pure_noise_and_a_number_gives_float32():
    alpha, sigma = FlowSchedule().alpha_sigma(torch.linspace(0, 1, 5001, dtype=torch.float64))
    assert (sigma.diff() > 0).all()
    assert sigma.diff().max() < 0.02, "no jump where the table ends"
    assert (float(alpha[-1]), float(sigma[-1])) == (0.0, 1.0)
    assert 0.028 < float(sigma[0]) < 0.029
    alpha, sigma = FlowSchedule().alpha_sigma(0.5)
    assert alpha.dtype == sigma.dtype == torch.float32
    assert alpha.shape == ()
    assert float(sigma) == pytest.approx(stable_diffusion_ratio(500) / (1 + stable_diffusion_ratio(500)), rel=1e-6)


def test_a_table_that_ends_in_pure_noise():
    squared = torch.linspace(0.999, 0, 1000, dtype=torch.float64)
    alpha, sigma = TableSchedule.of_alphas_cumprod(squared).alpha_sigma(torch.tensor(1.0, dtype=torch.float64))
    assert float(alpha) == pytest.approx(2.213e-4, rel=1e-3)
    assert float(sigma) == pytest.approx(1, abs=1e-6)


def test_the_ends_are_guarded():
    """Divisors are held at SMALLEST: finite, and exactly what the documentation says."""
    x, other = noise(1, 4, 2, 2), noise(1, 4, 2, 2, seed=1)
    zero, one = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    assert torch.equal(from_eps(x, other, zero, one).denoised, (x - other) / SMALLEST)
    assert torch.equal(from_denoised(x, other, one, zero).eps, (x - other) / SMALLEST)
    v, flow = from_v(x, other, zero, one), from_flow(x, other, zero, one)
    assert torch.equal(v.eps, x)
    assert torch.equal(v.denoised, -other)
    assert torch.equal(flow.eps, x)
    assert torch.equal(flow.denoised, x - other)


@pytest.mark.parametrize("convert", [from_eps, from_v, from_flow, from_denoised])
def test_half_precision_is_converted_in_full_precision(convert):
    """Whether a level is one number or one per image: rounding of x once at the end, not at every step."""
    x, other = noise(1, 4, 8, 8).half(), noise(1, 4, 8, 8, seed=1).half()
    alpha, sigma = table().alpha_sigma(0.95)
    exact = convert(x.float(), other.float(), alpha, sigma)
    for levels in ((alpha, sigma), (alpha[None], sigma[None])):
        found = convert(x, other, *levels)
        for name in ("eps", "denoised"):
            assert torch.equal(getattr(found, name), getattr(exact, name).half())
