"""Perceptual and distribution metrics against independent float64 implementations."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.metrics.distributions import art_fid, frechet_distance, gather_features
from regionstyle.nodes.metrics.networks.perceptual import PerceptualDistance
from regionstyle.nodes.metrics.structure import cfsd


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


class TwoLayers:
    """Two convolutions with random weights."""

    def __init__(self):
        self.kernels = [rand(5, 3, 3, 3, seed=3) - 0.5, rand(4, 5, 3, 3, seed=4) - 0.5]

    def __call__(self, x):
        found = []
        for kernel in self.kernels:
            x = torch.relu(torch.nn.functional.conv2d(x, kernel.to(x), stride=2, padding=1))
            found.append(x)
        return found


def distance(weights=None):
    return PerceptualDistance(TwoLayers(), "two-tiny", weights)


def transcription(a, b, weights):
    """Equation 1 in numpy, float64."""
    total = 0
    for i, (fa, fb) in enumerate(zip(TwoLayers()(a), TwoLayers()(b), strict=True)):
        fa, fb = fa.double().numpy(), fb.double().numpy()
        fa = fa / (np.sqrt((fa**2).sum(1, keepdims=True)) + 1e-10)
        fb = fb / (np.sqrt((fb**2).sum(1, keepdims=True)) + 1e-10)
        w = np.full(fa.shape[1], 1 / fa.shape[1]) if weights is None else weights[i].double().numpy()
        total = total + (w[None, :, None, None] * (fa - fb) ** 2).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (23, 41)])
def test_distance_is_the_equation(learnt, size):
    a, b = rand(2, 3, *size), rand(2, 3, *size, seed=1)
    weights = [rand(5, seed=5), rand(4, seed=6)] if learnt else None
    assert distance(weights)(a, b).numpy() == pytest.approx(transcription(a, b, weights), rel=1e-5)


def test_identical_pictures_have_no_distance():
    a = rand(2, 3, 16, 16)
    assert distance()(a, a).tolist() == [0, 0]
    assert distance().map(a, a).abs().max() == 0


def test_the_memory_layout_does_not_matter():
    a = rand(2, 3, 33, 47)
    assert distance()(a, a.contiguous(memory_format=torch.channels_last)).tolist() == [0, 0]


def test_the_map_shows_where_the_difference_is():
    a = rand(1, 3, 64, 64)
    b = a.clone()
    b[..., :16, :16] = 1 - b[..., :16, :16]
    mask = torch.zeros(1, 64, 64)
    mask[:, :16, :16] = 1
    inside, outside = distance().masked(b, a, mask), distance().masked(b, a, 1 - mask, "background")
    assert float(inside) > 20 * float(outside) > 0
    far = distance().map(b, a)[0, 40:, 40:]
    assert far.abs().max() == 0


def test_masked_everywhere_is_the_maps_mean():
    a, b = rand(2, 3, 16, 16), rand(2, 3, 16, 16, seed=1)
    found = distance().masked(a, b, torch.ones(16, 16))
    assert found.numpy() == pytest.approx(distance().map(a, b).mean((1, 2)).numpy(), rel=1e-5)


@pytest.mark.parametrize("count", [3, 50])  # fewer and more pictures than features
def test_frechet_distance_is_the_definition(count):
    from scipy.linalg import sqrtm

    random = np.random.default_rng(0)
    a, b = random.normal(size=(count, 6)), random.normal(0.3, 1.5, size=(count + 2, 6))
    sa, sb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # the offset keeps scipy's root of the singular product finite; ours needs none
    root = np.real(sqrtm((sa + 1e-9 * np.eye(6)) @ (sb + 1e-9 * np.eye(6))))
    truth = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sa + sb - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(truth, rel=1e-3)


def test_frechet_distance_by_hand():
    a = np.array([[-1.0], [1.0]])  # mean 0, variance 2
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(a, a + 3) == pytest.approx(9)
    assert frechet_distance(a, 2 * a) == pytest.approx((np.sqrt(8) - np.sqrt(2)) ** 2)


def test_frechet_distance_refuses_one_picture_and_other_networks():
    with pytest.raises(RegionStyleError, match="two or more"):
        frechet_distance(np.zeros((1, 3)), np.zeros((4, 3)))
    with pytest.raises(RegionStyleError, match="the same length"):
        frechet_distance(np.zeros((3, 3)), np.zeros((4, 5)))
    with pytest.raises(RegionStyleError, match="second set: got vectors with NaN"):
        frechet_distance(np.zeros((3, 3)), np.full((3, 3), np.nan))


@pytest.mark.parametrize("wrong", [(-0.1, 3.0), (0.2, float("nan")), (float("nan"), 3.0)])
def test_art_fid_refuses_what_is_no_distance(wrong):
    with pytest.raises(RegionStyleError, match="0 or more"):
        art_fid(*wrong)


@pytest.mark.parametrize("measure", [distance().__call__, distance().map, lambda a, b: cfsd(lambda x: x, a, b)])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a[:, :, :9], "the same shape"),
        (lambda a: a * float("nan"), "result: got values nan"),
        (lambda a: a * 2 - 1, "result: got values -"),
        (lambda a: a[:, :1], "shape"),
    ],
)
def test_distances_name_what_is_wrong(measure, change, says):
    image = rand(2, 3, 16, 16)
    with pytest.raises(RegionStyleError) as caught:
        measure(change(image), image)
    assert says in str(caught.value)


def test_features_are_gathered_in_order():
    batches = [rand(2, 3, 8, 8), rand(3, 3, 8, 8, seed=1)]
    found = gather_features(lambda x: x.mean((2, 3)), batches)
    assert found == pytest.approx(torch.cat(batches).double().mean((2, 3)).numpy(), rel=1e-6)
    with pytest.raises(RegionStyleError, match="none"):
        gather_features(lambda x: x, [])


def test_art_fid_is_the_published_product():
    """specs: SMS; LPIPS and FID of its tables give its ArtFID, which it takes from unrounded numbers."""
    assert art_fid(0.326, 13.089) == pytest.approx(18.686, abs=0.01)
    assert art_fid(0.268, 12.472) == pytest.approx(17.079, abs=0.02)


def self_similarity(features):
    flat = features[0].double().numpy().reshape(features.shape[1], -1).T / features.shape[1]
    gram = np.exp(flat @ flat.T)
    return gram / gram.sum(1, keepdims=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cfsd_is_the_definition(reduction):
    def features(x):
        return 5 * TwoLayers()(x)[-1]

    a, b = rand(2, 3, 20, 28), rand(2, 3, 20, 28, seed=1)
    found = cfsd(features, a, b, reduction)
    for i in range(2):
        sa, sb = self_similarity(features(a[i : i + 1])), self_similarity(features(b[i : i + 1]))
        rows = (sb * np.log(sb / sa)).sum(1)  # KL(source || result)
        assert float(found[i]) == pytest.approx(getattr(rows, reduction)(), rel=1e-4)
    assert cfsd(features, a, a).abs().max() < 1e-6


def test_cfsd_does_not_depend_on_how_many_rows_are_held(monkeypatch):
    a, b = rand(1, 3, 24, 24), rand(1, 3, 24, 24, seed=1)
    whole = cfsd(lambda x: x, a, b)
    monkeypatch.setattr("regionstyle.nodes.metrics.structure.ROWS", 100)  # 576 rows: the last part is short
    assert cfsd(lambda x: x, a, b).tolist() == pytest.approx(whole.tolist(), rel=1e-5)


def test_cfsd_refuses_another_reduction():
    with pytest.raises(RegionStyleError, match="reduction"):
        cfsd(lambda x: x, rand(1, 3, 8, 8), rand(1, 3, 8, 8), "max")
