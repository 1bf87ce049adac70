"""SMS's schedules, weights and loss terms against their formulas."""

import math

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.engine.predictor.schedule import FlowSchedule, TableSchedule
from regionstyle.nodes.sms.objective import relevance_map, spectrum_loss, style_gradient, style_loss
from regionstyle.nodes.sms.presets import PAPER, REFERENCE, preset
from regionstyle.nodes.sms.schedule import draw_times, frequency_limit, rate_share, squared_alpha, style_weight

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
ABAR = np.cumprod(1 - BETAS)
TABLE = TableSchedule.of_alphas_cumprod(torch.from_numpy(ABAR)).alpha_sigma


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["narrowing", "uniform", "linear"])
@pytest.mark.parametrize("chosen", [REFERENCE, PAPER], ids=lambda p: p.name)
def test_timesteps_stay_in_their_range(kind, chosen):
    for done in (0.0, 0.37, 0.9, 0.999):
        drawn = draw_times(chosen, kind, done, 400, random())
        top = 500 if kind == "uniform" else max(500 * (1 - done), 20)
        assert float(drawn.min()) >= 20
        assert float(drawn.max()) <= max(top, 21)
        if kind != "linear" and top > 100:
            assert float(drawn.max()) > 0.9 * top
            assert float(drawn.min()) < 20 + 0.1 * top
        if kind == "linear":
            assert drawn.unique().numel() == 1
            assert abs(float(drawn[0]) - top) <= 3  # the grid ends below the bound
    assert kind == "linear" or draw_times(chosen, kind, 0, 400, random()).unique().numel() > 100


def test_the_grid_is_the_published_one():
    """Odd timesteps 2 i + 1 with i in [10, max(int(250 (1 - done)), 11))."""
    drawn = draw_times(REFERENCE, "narrowing", 0.5, 5000, random()).unique()
    assert drawn.tolist() == [2 * i + 1 for i in range(10, 125)]
    assert draw_times(REFERENCE, "narrowing", 0.99, 50, random()).unique().tolist() == [21]


def test_an_unknown_schedule_or_preset_is_named():
    with pytest.raises(RegionStyleError, match="'cosine'.*narrowing"):
        draw_times(PAPER, "cosine", 0.1, 1, random())
    with pytest.raises(RegionStyleError, match="'code'.*reference"):
        preset("code")


def test_weights_of_stable_diffusion():
    times = torch.tensor([21.0, 101.0, 499.0], dtype=torch.float64)
    at = times.long().numpy()
    np.testing.assert_allclose(squared_alpha(TABLE, times).numpy(), ABAR[at], rtol=1e-12)
    np.testing.assert_allclose(style_weight(PAPER, TABLE, times).numpy(), 1 - ABAR[at], rtol=1e-12)
    wanted = (1 - ABAR[at - 2]) / (1 - ABAR[at]) * BETAS[at]
    np.testing.assert_allclose(style_weight(REFERENCE, TABLE, times).numpy(), wanted, rtol=1e-9)


def test_flow_has_the_same_weights_at_the_same_noise():
    times = torch.tensor([21.0, 101.0, 499.0], dtype=torch.float64)
    for chosen in (REFERENCE, PAPER):
        flow = style_weight(chosen, FlowSchedule().alpha_sigma, times)
        torch.testing.assert_close(flow, style_weight(chosen, TABLE, times), rtol=1e-6, atol=0)


def test_frequency_limit_of_a_wide_latent():
    limits = frequency_limit(torch.tensor([0.0, 250.0, 499.0, 500.0]), 16, 40)
    assert limits.tolist() == [0, 27, 53, 54]


def test_frequency_limit_is_exact_where_it_is_whole():
    """t / 500 is rounded: times the size it may come out below the whole number it means."""
    for size in (16, 32, 64, 96, 128):
        times = torch.arange(1001, dtype=torch.float64)
        wanted = [t * (2 * size - 2) // 500 for t in range(1001)]
        assert frequency_limit(times, size, size).tolist() == wanted
        assert frequency_limit(times.float(), size, size).tolist() == wanted


def published_rate(i, n):
    """diffusers' cosine schedule with 100 iterations of warm-up over 1.5 n."""
    return i / 100 if i < 100 else 0.5 * (1 + math.cos(math.pi * (i - 100) / (1.5 * n - 100)))


@pytest.mark.parametrize("n", [500, 501, 1000, 3000])
def test_the_learning_rate_of_long_runs_is_the_published_one(n):
    from diffusers.optimization import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 100, int(1.5 * n))
    for i in range(n):
        assert rate_share(i, n) == pytest.approx(published_rate(i, n), abs=1e-12)
        if n % 2 == 0:
            assert rate_share(i, n) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
            schedule.step()


@pytest.mark.parametrize("n", [2, 5, 10, 24, 50, 75, 100, 200, 499])
def test_the_learning_rate_of_short_runs(n):
    """A rise over a fifth of the run, whose first move is 5 times the published one at most; then the cosine."""
    shares = [rate_share(i, n) for i in range(n)]
    warm = max(2, n / 5)
    assert shares[0] == 0
    assert 0 < shares[1] <= 0.05 + 1e-12
    rise = [share for i, share in enumerate(shares) if i < warm]
    assert rise == sorted(rise)
    assert all(shares[i] == pytest.approx(0.5 * (1 + math.cos(math.pi * (i - warm) / (1.5 * n - warm))))
               for i in range(math.ceil(warm), n))  # fmt: skip
    if n >= 100:
        assert rise == pytest.approx([i / warm for i in range(len(rise))])


@pytest.mark.parametrize("order", ["mean_first", "absolute_first"])
def test_relevance_map(order):
    edited, empty = torch.randn(2, 4, 5, 7, generator=random()).double(), torch.randn(2, 4, 5, 7).double()
    made = relevance_map(edited, empty, order).numpy()
    for picture in range(2):
        difference = (edited - empty)[picture].numpy()
        size = np.abs(difference.mean(0)) if order == "mean_first" else np.abs(difference).mean(0)
        np.testing.assert_allclose(made[picture, 0], (size - size.min()) / (size.max() - size.min()), atol=1e-12)
    assert bool((relevance_map(edited, edited, order) == 1).all())


def test_style_gradient_and_loss():
    latent = torch.randn(2, 4, 5, 7, generator=random()).double().requires_grad_()
    style, fake = torch.randn(2, 4, 5, 7).double(), torch.randn(2, 4, 5, 7).double()
    style[0, 0, 0, 0] = float("nan")
    gradient = style_gradient(style, fake, torch.tensor([0.5, 0.1], dtype=torch.float64))
    assert float(gradient[0, 0, 0, 0]) == 0
    torch.testing.assert_close(gradient[1], 0.1 * (style[1] - fake[1]))
    (got,) = torch.autograd.grad(style_loss(latent, gradient).sum(), latent)
    torch.testing.assert_close(got, gradient / (4 * 5 * 7))


@pytest.mark.parametrize("power", [1, 2])
def test_spectrum_loss_per_picture(power):
    from regionstyle.kernels import dct2

    latent, source = torch.randn(2, 4, 6, 9, generator=random()).double(), torch.randn(2, 4, 6, 9).double()
    made = spectrum_loss(latent, source, torch.tensor([4.0, 9.0]), power)
    for picture, limit in enumerate((4, 9)):
        moved = dct2(latent[picture] - source[picture])
        keep = torch.arange(6)[:, None] + torch.arange(9) <= limit
        torch.testing.assert_close(made[picture], (moved.abs() ** power * keep).mean())
    region = torch.zeros(1, 1, 6, 9).double()
    assert bool((spectrum_loss(latent, source, torch.tensor([4.0, 9.0]), power, region) == 0).all())
