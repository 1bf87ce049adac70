"""Focus and Cover: the published functions, their closed forms, and what the published quantity cannot do."""

import math

import pytest
import torch
from torch.nn import functional as F

from regionstyle.nodes.engine.attention.losses import (
    FLOOR,
    cover_loss,
    focus_loss,
    has_contrast,
    map_medians,
    masks_on_grid,
    reverse_focus_loss,
    usable_masks,
)
from regionstyle.nodes.engine.attention.supervision import PUBLISHED

LOSSES = [focus_loss, cover_loss]


def published_focus(a, m, tau):
    """The published code's Focus of maps `[N]` and a binary mask `[N]`, in float64."""
    a, m = a.double(), m.double()
    u = m / m.sum()
    log_attention = a / tau - torch.logsumexp(a / tau, 0)
    inside = m > 0
    return (u[inside] * (u[inside].log() - log_attention[inside])).sum()


def published_cover(a, m, alpha):
    """The published code's Cover: cross-entropy with logits, of a probability."""
    a, m = alpha * a.double(), m.double()
    return (torch.log1p(torch.exp(a)) - m * a).mean()


def mask_of(inside, side=16):
    """A mask `[1,1,side,side]` whose first `inside` places are 1."""
    mask = torch.zeros(side * side)
    mask[:inside] = 1
    return mask.view(1, 1, side, side)


@pytest.mark.parametrize("inside", [1, 10, 128, 255])
def test_the_preset_is_the_published_functions(inside):
    mask = mask_of(inside)
    maps = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(inside))
    focus = focus_loss(maps, mask, PUBLISHED.tau)
    cover = cover_loss(maps, mask, PUBLISHED.kappa, balanced=PUBLISHED.balanced)
    assert float(focus) == pytest.approx(float(published_focus(maps.flatten(), mask.flatten(), 0.1)), abs=1e-6)
    assert float(cover) == pytest.approx(float(published_cover(maps.flatten(), mask.flatten(), 2.0)), abs=1e-6)
    assert (PUBLISHED.kind, PUBLISHED.focus, PUBLISHED.cover) == ("selected", 0.1, 5e-5)


@pytest.mark.parametrize(("inside", "about"), [(100, 0.0018), (10, 0.018)])
def test_focus_of_the_ideal_map(inside, about):
    """Attention 1 inside and 0 outside of N = 4096 places: ln(1 + (N - n) / (n e^(1/tau)))."""
    mask = mask_of(inside, 64).double()
    value = float(focus_loss(mask, mask, 0.1))
    assert value == pytest.approx(math.log(1 + (4096 - inside) / (inside * math.exp(10))), rel=1e-9)
    assert value == pytest.approx(about, rel=0.05)


@pytest.mark.parametrize("inside", [3, 100])
def test_focus_of_a_flat_map(inside):
    """A map that is the same everywhere, whatever it is: ln(N / n)."""
    mask = mask_of(inside).double()
    for level in (0.0, 1.0, -7.0):
        assert float(focus_loss(torch.full_like(mask, level), mask, 0.3)) == pytest.approx(math.log(256 / inside))


@pytest.mark.parametrize("inside", [10, 100])
def test_cover_of_the_ideal_map(inside):
    """ln 2 outside and ln(1 + e^-2) inside, the least there is on probabilities; balanced, half of each."""
    mask = mask_of(inside).double()
    share, off, on = inside / 256, math.log(2), math.log1p(math.exp(-2))
    assert float(cover_loss(mask, mask, 2.0, balanced=False)) == pytest.approx(off * (1 - share) + on * share)
    assert float(cover_loss(mask, mask, 2.0)) == pytest.approx((off + on) / 2)


def test_the_published_quantity_is_least_where_it_says_nothing():
    """With the tokens of one style alone their shares sum to 1 at every place: by Jensen's inequality both losses,
    meaned over the tokens, are never below those of the uniform map."""
    random, mask = torch.Generator().manual_seed(0), mask_of(40).double()
    for tokens in (2, 3, 4):
        uniform = torch.full((1, tokens, 16, 16), 1 / tokens, dtype=torch.float64)
        least = [float(loss) for loss in _published(uniform, mask)]
        assert least[0] == pytest.approx(math.log(256 / 40))
        for _ in range(50):
            maps = (torch.randn(1, tokens, 16, 16, generator=random).double() * 3).softmax(1)
            focus, cover = _published(maps, mask)
            assert float(focus) >= least[0] - 1e-12
            assert float(cover) >= least[1] - 1e-12


def _published(maps, mask):
    masks = mask.expand_as(maps)
    focus = focus_loss(maps, masks, PUBLISHED.tau).mean()
    return focus, cover_loss(maps, masks, PUBLISHED.kappa, balanced=PUBLISHED.balanced).mean()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("level", [0.0, 1.0, 0.5, 1 - 1e-6])
def test_masks_without_contrast_count_nothing(loss, level):
    mask = torch.full((1, 1, 8, 8), level)
    assert not bool(has_contrast(mask))
    maps = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    value = loss(maps, mask)
    assert float(value.detach()) == 0
    assert float(torch.autograd.grad(value.sum(), maps)[0].abs().max()) == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_one_place_of_many_counts(loss):
    mask = mask_of(1, 64)
    assert bool(has_contrast(mask))
    good, bad = float(loss(mask * 8 - 4, mask)), float(loss(4 - mask * 8, mask))
    assert good < bad / 5


def test_the_median_is_a_center():
    mask = mask_of(64)
    maps = (mask * 2 - 1) * 3
    moved = maps + 5.0
    assert float(cover_loss(moved, mask)) > 1
    assert float(cover_loss(moved, mask, center=map_medians(moved))) < float(cover_loss(moved, mask))
    assert not map_medians(moved.requires_grad_()).requires_grad


def test_balance_weighs_a_small_region_like_its_surroundings():
    small, large = mask_of(4).double(), mask_of(128).double()
    assert float(cover_loss(torch.zeros_like(small), small)) == pytest.approx(math.log(2))
    assert float(cover_loss(torch.zeros_like(large), large)) == pytest.approx(math.log(2))


def soft_mask(inside, border):
    """A mask `[1,1,16,16]` whose first places are 1, the next ones 0.4 to 0.6."""
    mask = mask_of(inside).double()
    mask.view(-1)[inside : inside + border] = torch.linspace(0.4, 0.6, border, dtype=torch.float64)
    return mask


def test_the_border_can_be_left_out():
    """Closed forms over the places that are left: Focus of a flat map ln(N / n), Cover of log-odds 0 ln 2."""
    mask = soft_mask(40, 16)
    flat = torch.full_like(mask, 3.0)
    assert float(focus_loss(flat, mask, 0.5, band=0.25)) == pytest.approx(math.log((256 - 16) / 40))
    assert float(cover_loss(flat * 0, mask, band=0.25)) == pytest.approx(math.log(2))
    ideal = (mask_of(40) * 2 - 1).double() * 30
    assert float(cover_loss(ideal, mask, band=0.25)) == pytest.approx(0.0, abs=1e-9)
    assert float(cover_loss(ideal, mask)) > 0.5, "the border has a say otherwise"


@pytest.mark.parametrize("loss", [focus_loss, reverse_focus_loss, cover_loss])
def test_the_border_has_no_gradient(loss):
    mask = soft_mask(40, 16)
    maps = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(maps, mask, 0.7, band=0.25).sum(), maps)
    border = (mask - 0.5).abs() < 0.25
    assert int(border.sum()) == 16
    assert not gradient[border].any()
    assert gradient[~border].abs().min() > 0


@pytest.mark.parametrize("loss", [focus_loss, reverse_focus_loss, cover_loss])
def test_a_mask_that_is_all_border_counts_nothing(loss):
    masks = torch.stack([soft_mask(0, 256)[0, 0], soft_mask(0, 64)[0, 0], soft_mask(40, 16)[0, 0]])[None]
    assert usable_masks(masks, 0.25).tolist() == [[False, False, True]]
    assert usable_masks(masks).tolist() == [[True, True, True]]
    found = loss(torch.rand_like(masks), masks, band=0.25)[0]
    assert found[:2].tolist() == [0.0, 0.0]
    assert float(found[2]) > 0
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("inside", [10, 100])
def test_focus_in_the_papers_direction(inside):
    """KL(map || mask), each place of the mask with a floor: of a flat map, and 0 where both are the same."""
    mask = mask_of(inside).double()
    within, outside = (1 / inside + FLOOR) / (1 + 256 * FLOOR), FLOOR / (1 + 256 * FLOOR)
    share = inside / 256
    wanted = -math.log(256) - share * math.log(within) - (1 - share) * math.log(outside)
    assert float(reverse_focus_loss(torch.zeros_like(mask), mask, 0.1)) == pytest.approx(wanted)
    same = 0.1 * ((mask / inside + FLOOR) / (1 + 256 * FLOOR)).log()
    assert float(reverse_focus_loss(same, mask, 0.1)) == pytest.approx(0.0, abs=1e-9)
    half = [float(reverse_focus_loss(mask * high, mask, 0.1)) for high in (0.5, 1.0)]
    assert half[1] < half[0]


@pytest.mark.parametrize("loss", [focus_loss, cover_loss])
def test_gradients_point_into_the_mask(loss):
    """A step down the gradient raises the map inside and lowers it outside, for every kind that is not yet ideal."""
    mask = mask_of(40).double()
    maps = torch.zeros(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(maps, mask).sum(), maps)
    assert (gradient[mask == 1] < 0).all()
    assert (gradient[mask == 0] > 0).all()


def test_masks_on_a_grid():
    mask = torch.zeros(1, 2, 32, 32)
    mask[0, 0, 8:24, 8:24] = 1
    mask[0, 1, :, 5] = 1  # one pixel wide: it would be an eighth of each cell
    small = masks_on_grid(mask, (4, 4))
    assert torch.equal(small[0, 0], F.interpolate(mask[:, :1], (4, 4), mode="area")[0, 0])
    assert small[0, 1, :, 0].tolist() == [1.0] * 4
    assert small[0, 1, :, 1:].sum() == 0
    assert masks_on_grid(mask, (32, 32)) is mask
