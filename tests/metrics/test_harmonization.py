"""R2R's protocol against a numpy transcription, and its tables."""

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.metrics.harmonization import (
    HarmonizationScore,
    HarmonizationSettings,
    harmonization_score,
    harmonization_table,
    subset_of,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def transcription(output, truth, mask, truth_background):
    """The reference numbers in float64 numpy at one size."""
    from skimage.metrics import structural_similarity

    o, t = (x[0].permute(1, 2, 0).double().numpy() * 255 for x in (output, truth))
    m = (mask.numpy() >= 0.5).astype(float)
    if truth_background:
        o = o * m[..., None] + t * (1 - m[..., None])
    mse = ((o - t) ** 2).mean()
    fmse = (((o - t) ** 2).mean(-1) * m).sum() / m.sum()
    ssim = structural_similarity(o, t, channel_axis=2, data_range=o.max() - t.min())
    return 10 * np.log10(255**2 / mse), mse, fmse, ssim, m.mean()


@pytest.mark.parametrize("truth_background", [True, False])
def test_score_is_the_reference(truth_background):
    output, truth, mask = rand(1, 3, 24, 40), rand(1, 3, 24, 40, seed=1), rand(24, 40, seed=2)
    found = harmonization_score(output, truth, mask, HarmonizationSettings(None, truth_background))
    expected = transcription(output, truth, mask, truth_background)
    assert (*found.values(), found.ratio) == pytest.approx(expected, rel=1e-6)


def test_pictures_are_compared_at_the_named_size():
    truth, mask = rand(1, 3, 40, 60), torch.ones(40, 60)
    whole = harmonization_score(rand(1, 3, 20, 20, seed=1), truth, mask, HarmonizationSettings(size=32))
    assert whole.ratio == 1
    assert 0 < whole.mse < 255**2


def test_identical_pictures():
    truth = rand(1, 3, 16, 16)
    mask = torch.zeros(16, 16)
    mask[:4] = 1
    found = harmonization_score(truth, truth, mask, HarmonizationSettings(None))
    assert found.mse == found.fmse == 0
    assert found.psnr == float("inf")
    assert found.ssim == pytest.approx(1)
    assert found.ratio == 0.25


def test_flat_pictures_have_a_number():
    flat = torch.full((1, 3, 16, 16), 0.5)
    found = harmonization_score(flat, flat, torch.ones(16, 16), HarmonizationSettings(None))
    assert found.ssim == pytest.approx(1)


def test_no_foreground_is_an_error():
    image = rand(1, 3, 16, 16)
    with pytest.raises(RegionStyleError, match="no region"):
        harmonization_score(image, image, torch.zeros(16, 16))


@pytest.mark.parametrize(
    ("result", "mask", "says"),
    [
        (rand(2, 3, 16, 16), torch.ones(16, 16), "result: got 2 pictures"),
        (rand(1, 3, 16, 16) * 255, torch.ones(16, 16), "result: got values"),
        (rand(1, 3, 16, 16) * float("nan"), torch.ones(16, 16), "result: got values nan"),
        (rand(1, 3, 16, 16), torch.ones(8, 8), "mask: got shape"),
        (rand(1, 3, 16, 16), torch.full((16, 16), 255.0), "mask: got values"),
        (rand(1, 3, 16, 16), torch.full((16, 16), float("nan")), "mask: got values nan"),
    ],
)
def test_wrong_input_is_named(result, mask, says):
    with pytest.raises(RegionStyleError) as caught:
        harmonization_score(result, rand(1, 3, 16, 16, seed=1), mask)
    assert says in str(caught.value)


def test_a_size_below_the_window_is_refused():
    with pytest.raises(RegionStyleError, match="size: got 4"):
        HarmonizationSettings(size=4)


def test_table_by_subset_and_ratio():
    scores = [
        HarmonizationScore(40, 4, 100, 0.9, 0.01, "HCOCO"),
        HarmonizationScore(30, 8, 200, 0.8, 0.05, "HCOCO"),  # 5 % belongs to the middle bin
        HarmonizationScore(20, 12, 300, 0.7, 1.0, "HFlickr"),
    ]
    rows = {(r.subset, r.ratio): (r.count, r.measurements[0].value) for r in harmonization_table(scores)}
    assert rows == {
        ("all", "all"): (3, pytest.approx(30)),
        ("all", "0-5 %"): (1, 40),
        ("all", "5-15 %"): (1, 30),
        ("all", "15-100 %"): (1, 20),
        ("HCOCO", "all"): (2, 35),
        ("HCOCO", "0-5 %"): (1, 40),
        ("HCOCO", "5-15 %"): (1, 30),
        ("HFlickr", "all"): (1, 20),
        ("HFlickr", "15-100 %"): (1, 20),
    }
    assert {m.pixel_range for r in harmonization_table(scores) for m in r.measurements} == {"0..255"}


def test_subsets_are_read_from_names():
    assert [subset_of(n) for n in ("a0001_1_1.jpg", "c5_1_1.jpg", "d9-2_1.jpg", "f800_1_1.jpg")] == [
        "HAdobe5k", "HCOCO", "Hday2night", "HFlickr",
    ]  # fmt: skip
    with pytest.raises(RegionStyleError, match="first letter"):
        subset_of("x1.jpg")
