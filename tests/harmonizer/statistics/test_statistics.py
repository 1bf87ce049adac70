"""Classical colour transfer: against definitions and scikit-image, with soft masks and degenerate areas."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.harmonizer.poisson import PoissonHarmonizer
from regionstyle.nodes.harmonizer.statistics.areas import Area, area
from regionstyle.nodes.harmonizer.statistics.harmonizer import StatisticsHarmonizer
from regionstyle.nodes.harmonizer.statistics.lab import lab_from_rgb, rgb_from_lab
from regionstyle.nodes.harmonizer.statistics.methods import METHODS, histogram, interpolated

KINDS = list(METHODS)


def composite(seed=0, h=40, w=48):
    """Darker and bluer inside a disc than outside."""
    random = torch.Generator().manual_seed(seed)
    picture = 0.4 + 0.3 * torch.rand(1, 3, h, w, generator=random)
    y, x = torch.arange(h)[:, None] - h / 2, torch.arange(w)[None] - w / 2
    mask = ((y**2 + x**2) < 144).float()[None, None]
    inside = picture * torch.tensor([0.4, 0.5, 0.9]).view(1, 3, 1, 1) + 0.05
    return torch.where(mask > 0, inside, picture), mask


def weighted(values, weights):
    mean = (values * weights).sum(-1) / weights.sum()
    centred = values - mean[:, None]
    return mean, (centred * weights) @ centred.T / weights.sum()


def test_lab_is_scikit_images():
    skimage = pytest.importorskip("skimage.color")
    colours = torch.rand(200, 3, dtype=torch.float64)
    expected = torch.from_numpy(skimage.rgb2lab(colours.numpy()[None])[0])
    torch.testing.assert_close(lab_from_rgb(colours), expected, atol=2e-2, rtol=1e-3)
    torch.testing.assert_close(rgb_from_lab(lab_from_rgb(colours)), colours, atol=1e-6, rtol=0)


def test_reinhard_gives_lab_means_and_deviations():
    picture, mask = composite()
    made = METHODS["reinhard"](area(picture[0], mask[0], "mask"), area(picture[0], mask[0], "mask", inside=False))
    source, goal = area(picture[0], mask[0], "mask"), area(picture[0], mask[0], "mask", inside=False)
    a, b = lab_from_rgb(made(source.colours)), lab_from_rgb(goal.colours)
    torch.testing.assert_close(a.mean(0), b.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(a.std(0, correction=0), b.std(0, correction=0), atol=1e-6, rtol=0)


def test_monge_kantorovich_gives_mean_and_covariance_with_soft_weights():
    random = torch.Generator().manual_seed(1)
    colours, others = (torch.rand(300, 3, generator=random, dtype=torch.float64) for _ in range(2))
    weights = torch.rand(300, generator=random, dtype=torch.float64)
    source, goal = Area(colours, weights / weights.sum()), Area(others**2, torch.full((300,), 1 / 300.0).double())
    mapped = METHODS["mkl"](source, goal)(colours)
    mean, covariance = weighted(mapped.T, weights)
    torch.testing.assert_close(mean, goal.mean(), atol=1e-9, rtol=0)
    torch.testing.assert_close(covariance, goal.covariance(), atol=1e-5, rtol=0)


def test_monge_kantorovich_moves_colours_least():
    """Its matrix is symmetric and positive: of all maps with these covariances that one is the optimal transport."""
    picture, mask = composite()
    source, goal = area(picture[0], mask[0], "mask"), area(picture[0], mask[0], "mask", inside=False)
    mapped = METHODS["mkl"](source, goal)
    eye = torch.eye(3, dtype=torch.float64)
    matrix = (mapped(eye) - mapped(torch.zeros(1, 3, dtype=torch.float64))).T
    torch.testing.assert_close(matrix, matrix.T, atol=1e-9, rtol=0)
    assert torch.linalg.eigvalsh(matrix).min() > 0


def test_histogram_is_scikit_images():
    skimage = pytest.importorskip("skimage.exposure")
    random = np.random.default_rng(0)
    source, goal = random.integers(0, 90, (1, 500, 3)) / 255, random.integers(60, 256, (1, 700, 3)) / 255
    expected = skimage.match_histograms(source, goal, channel_axis=-1)[0]
    areas = [Area(torch.from_numpy(x[0]), torch.full((x.shape[1],), 1 / x.shape[1]).double()) for x in (source, goal)]
    torch.testing.assert_close(histogram(*areas)(areas[0].colours), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_weights_count_as_repetitions():
    random = torch.Generator().manual_seed(2)
    colours = torch.rand(20, 3, generator=random, dtype=torch.float64)
    counts = torch.randint(1, 5, (20,), generator=random)
    goal = Area(torch.rand(50, 3, generator=random, dtype=torch.float64), torch.full((50,), 0.02).double())
    repeated = colours.repeat_interleave(counts, 0)
    for method in METHODS.values():
        by_weight = method(Area(colours, counts / counts.sum().double()), goal)(colours)
        by_count = method(Area(repeated, torch.full((len(repeated),), 1 / len(repeated)).double()), goal)(colours)
        torch.testing.assert_close(by_weight, by_count, atol=1e-6, rtol=0)


def test_interpolation_is_numpys():
    random = np.random.default_rng(3)
    knots, values, x = np.sort(random.random(9)), random.random(9), random.uniform(-0.5, 1.5, 40)
    given = [torch.from_numpy(array) for array in (x, knots, values)]
    np.testing.assert_allclose(interpolated(*given).numpy(), np.interp(x, knots, values), atol=1e-12)


@pytest.mark.parametrize("method", KINDS)
def test_the_foreground_gets_the_backgrounds_mean(method):
    picture, mask = composite()
    made = StatisticsHarmonizer(method).harmonize(picture, mask)
    means = [(x * m).sum((2, 3)) / m.sum() for x, m in ((picture, 1 - mask), (picture, mask), (made, mask))]
    assert (means[2] - means[0]).abs().max() < 0.02 < (means[1] - means[0]).abs().max()
    assert torch.equal(made * (1 - mask), picture * (1 - mask))


@pytest.mark.parametrize("method", KINDS)
def test_a_reference_instead_of_the_background(method):
    picture, mask = composite()
    reference = 0.4 + 0.2 * torch.rand(1, 3, 20, 30) * torch.tensor([0.2, 0.9, 0.1]).view(1, 3, 1, 1)
    region = torch.zeros(1, 1, 20, 30)
    region[..., :10, :] = 1
    reference[..., 10:, :] = 1
    made = StatisticsHarmonizer(method).harmonize(picture, mask, reference=reference, reference_mask=region)
    mean = (made * mask).sum((2, 3)) / mask.sum()
    assert (mean - reference[..., :10, :].mean((2, 3))).abs().max() < 0.05


@pytest.mark.parametrize("method", KINDS)
def test_areas_of_one_colour_are_only_moved(method):
    picture, mask = composite()
    flat = torch.where(mask > 0, torch.tensor([0.2, 0.3, 0.4]).view(1, 3, 1, 1), picture)
    made = StatisticsHarmonizer(method).harmonize(flat, mask)
    inside = made[0, :, mask[0, 0] > 0]
    assert inside.isfinite().all()
    assert (inside - inside[:, :1]).abs().max() < 1e-5
    textured = torch.where(mask > 0, picture, torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1))
    kept = StatisticsHarmonizer(method).harmonize(textured, mask)[0, :, mask[0, 0] > 0]
    assert kept.isfinite().all()
    assert kept.std(1).min() > 0.01  # its detail is not flattened


@pytest.mark.parametrize("method", KINDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda mask: mask * 0, "mask: got 0 pixels inside"),
        (lambda mask: mask * 0 + 1, "mask: got 0 pixels outside"),
        (
            lambda mask: torch.nn.functional.one_hot(torch.tensor(7), mask.numel()).float().view_as(mask),
            "1 pixels inside",
        ),
        (lambda mask: mask[..., :-1], "mask: got torch.float32"),
        (lambda mask: mask * float("nan"), "mask: got values nan"),
    ],
)
def test_masks_without_statistics(method, change, message):
    picture, mask = composite()
    with pytest.raises(RegionStyleError, match=message):
        StatisticsHarmonizer(method).harmonize(picture, change(mask))


def test_what_is_refused():
    picture, mask = composite()
    with pytest.raises(RegionStyleError, match="method: got 'lab'"):
        StatisticsHarmonizer("lab")
    with pytest.raises(RegionStyleError, match="strength"):
        StatisticsHarmonizer("mkl", 1.5)
    with pytest.raises(RegionStyleError, match="reference_mask: got a mask"):
        StatisticsHarmonizer().harmonize(picture, mask, reference_mask=mask)
    with pytest.raises(RegionStyleError, match="reference: got 2 pictures"):
        StatisticsHarmonizer().harmonize(picture, mask, reference=torch.rand(2, 3, 9, 9))
    with pytest.raises(RegionStyleError, match="reference: got one with Poisson"):
        PoissonHarmonizer().harmonize(picture, mask, reference=picture)


def test_strength_goes_from_nothing_to_all():
    picture, mask = composite()
    none, half, full = (StatisticsHarmonizer("mkl", s).harmonize(picture, mask) for s in (0, 0.5, 1))
    torch.testing.assert_close(none, picture)
    torch.testing.assert_close(half, (none + full) / 2, atol=1e-6, rtol=0)


def test_poisson_takes_an_offset_away():
    """A ramp, and a part of it that is darker by a constant: the ramp comes back."""
    ramp = torch.linspace(0.2, 0.8, 48).expand(1, 3, 40, 48).clone()
    mask = torch.zeros(1, 1, 40, 48)
    mask[..., 10:30, 12:30] = 1
    made = PoissonHarmonizer().harmonize(ramp - 0.15 * mask, mask)
    assert (made - ramp).abs().max() < 0.02
