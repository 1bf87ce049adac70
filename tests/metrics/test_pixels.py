"""Pixel metrics against scikit-image and float64 transcriptions, and cases whose numbers are known by hand."""

import math

import numpy as np
import pytest
import torch

from regionstyle.nodes.engine.errors import RegionStyleError
from regionstyle.nodes.metrics.pixels import equal_outside, mask_iou, masked_mse, masked_psnr, mse, psnr, ssim


def pictures(count=2, height=17, width=23, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def near(images, amount=0.1, seed=9):
    return (images + amount * (pictures(*images.shape[:1], *images.shape[2:], seed=seed) - 0.5)).clamp(0, 1)


@pytest.mark.parametrize("size", [(7, 7), (8, 31), (63, 100)])
@pytest.mark.parametrize("data_range", [1.0, 0.4])
def test_ssim_is_scikit_images(size, data_range):
    from skimage.metrics import structural_similarity

    a = pictures(2, *size).double()
    b = near(a.float()).double()
    found = ssim(a, b, data_range)
    for i in range(2):
        truth = structural_similarity(
            a[i].permute(1, 2, 0).numpy(), b[i].permute(1, 2, 0).numpy(), channel_axis=2, data_range=data_range
        )
        assert float(found[i]) == pytest.approx(truth, rel=1e-9)


def test_psnr_is_scikit_images():
    from skimage.metrics import peak_signal_noise_ratio

    a = pictures().double()
    b = near(a.float()).double()
    for i in range(2):
        truth = peak_signal_noise_ratio(a[i].numpy(), b[i].numpy(), data_range=1.0)
        assert float(psnr(b, a)[i]) == pytest.approx(truth, rel=1e-12)


def test_mse_is_the_definition_in_every_range():
    a, b = pictures(), pictures(seed=1)
    plain = ((a.double().numpy() - b.double().numpy()) ** 2).mean((1, 2, 3))
    assert mse(a, b, "0..1").numpy() == pytest.approx(plain)
    assert mse(a, b, "-1..1").numpy() == pytest.approx(plain * 4)
    assert mse(a, b, "0..255").numpy() == pytest.approx(plain * 255**2)


def test_masked_mse_is_the_definition():
    a, b, mask = pictures(), pictures(seed=1), pictures(seed=2)[:, 0]
    x, y, m = (t.double().numpy() for t in (a, b, mask))
    truth = [(((x[i] - y[i]) ** 2).mean(0) * m[i]).sum() / m[i].sum() for i in range(2)]
    assert masked_mse(a, b, mask, "0..1").numpy() == pytest.approx(truth, rel=1e-6)


def test_identical_pictures():
    a = pictures()
    assert (mse(a, a) == 0).all()
    assert all(math.isinf(v) for v in psnr(a, a).tolist())
    assert ssim(a, a).numpy() == pytest.approx([1, 1])


def test_a_known_difference_in_a_known_region():
    a = torch.zeros(1, 3, 10, 10)
    b, mask = a.clone(), torch.zeros(1, 10, 10)
    b[:, :, :2, :5] = 0.5  # 10 of 100 pixels
    mask[:, :2, :5] = 1
    assert float(mse(b, a, "0..1")) == pytest.approx(0.025)
    assert float(masked_mse(b, a, mask, "0..1")) == pytest.approx(0.25)
    assert float(masked_mse(b, a, 1 - mask, "0..1")) == 0
    assert float(psnr(b, a)) == pytest.approx(-10 * math.log10(0.025))


def test_all_foreground_equals_the_plain_number():
    a, b = pictures(), pictures(seed=1)
    assert masked_mse(a, b, torch.ones(17, 23)).numpy() == pytest.approx(mse(a, b).numpy())


def test_one_pixel_of_foreground():
    a, b, mask = pictures(1), pictures(1, seed=1), torch.zeros(1, 17, 23)
    mask[0, 3, 4] = 1
    truth = float(((a - b)[0, :, 3, 4].double() ** 2).mean())
    assert float(masked_mse(a, b, mask, "0..1")) == pytest.approx(truth, rel=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda a: mse(a, a[:, :, :5]), "the same shape"),
        (lambda a: mse(a * 255, a * 255), "0..1"),
        (lambda a: mse(a * float("nan"), a), "nan"),
        (lambda a: mse(a, a, "0..7"), "pixel range"),
        (lambda a: mse(a[0], a[0]), "[B,3,H,W]"),
        (lambda a: masked_mse(a, a, torch.zeros(17, 23)), "no region in picture 0, 1"),
        (lambda a: masked_mse(a, a, torch.ones(4, 4)), "mask: got shape"),
        (lambda a: masked_mse(a, a, torch.full((17, 23), 2.0)), "mask: got values"),
        (lambda a: ssim(a[..., :6], a[..., :6]), "7 x 7"),
        (lambda a: ssim(a, a, 0.0), "data range"),
    ],
)
def test_wrong_input_is_named(call, says):
    with pytest.raises(RegionStyleError) as caught:
        call(pictures())
    assert says in str(caught.value)


def test_iou_by_hand():
    truth = torch.zeros(5, 8, 8)
    truth[:4, :4, :4] = 1
    found = truth.clone()
    found[1] = torch.roll(truth[1], 2, -1)  # shifted: 8 of 24 in common
    found[2] = 0
    found[3] = 1  # everything found
    assert mask_iou(found, truth).tolist() == pytest.approx([1, 8 / 24, 0, 16 / 64, 1])  # the last: both empty


@pytest.mark.parametrize(
    ("change", "threshold", "says"),
    [
        (lambda m: m[0], 0.5, "one shape"),
        (lambda m: m[:0], 0.5, "one shape"),
        (lambda m: m * 255, 0.5, "found mask: got values 0..255"),
        (lambda m: m * float("nan"), 0.5, "found mask: got values nan"),
        (lambda m: m, 1.0, "threshold"),
        (lambda m: m, float("nan"), "threshold"),
    ],
)
def test_iou_names_what_is_wrong(change, threshold, says):
    mask = torch.zeros(2, 8, 8)
    mask[:, 2:] = 1
    truth = mask[0] if change(mask).ndim == 2 else mask[: len(change(mask))]
    with pytest.raises(RegionStyleError) as caught:
        mask_iou(change(mask), truth, threshold)
    assert says in str(caught.value)


def test_inputs_stay_as_they_are():
    a, b, mask = pictures(), pictures(seed=1), pictures(seed=2)[:, 0]
    kept = [t.clone() for t in (a, b, mask)]
    masked_mse(a, b, mask)
    ssim(a, b)
    assert all(torch.equal(x, y) for x, y in zip((a, b, mask), kept, strict=True))
    assert np.isfinite(ssim(a, b).numpy()).all()


def test_psnr_in_a_mask_sees_the_mask_only():
    a = pictures()
    b, mask = a.clone(), torch.zeros(2, *a.shape[-2:])
    mask[:, 3:9, 4:12] = 1
    b[:, :, 3:9, 4:12] = (a[:, :, 3:9, 4:12] + 0.1).clamp(0, 1)
    b[:, :, 10:] = 0
    for i in range(2):
        inside = slice(i, i + 1), slice(None), slice(3, 9), slice(4, 12)
        assert float(masked_psnr(a, b, mask)[i]) == pytest.approx(float(psnr(a[inside], b[inside])[0]), rel=1e-6)


def test_equal_outside_is_bit_for_bit_and_per_picture():
    a = pictures()
    b, mask = a.clone(), torch.zeros(2, *a.shape[-2:])
    mask[:, 3:9, 4:12] = 1e-6
    b[:, :, 4, 5] = 0
    assert equal_outside(b, a, mask).tolist() == [True, True]
    b[1, 2, 0, 0] = torch.nextafter(b[1, 2, 0, 0], torch.tensor(2.0))
    assert equal_outside(b, a, mask).tolist() == [True, False]
