import math

import pytest
import torch

from regionstyle.kernels import dct2, idct2, low_pass, spectrum_distance
from regionstyle.kernels.dct import (
    _cosine_basis,
    _triangle,
    dct2_reference,
    idct2_reference,
    low_pass_reference,
    spectrum_distance_reference,
)

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SIZES = [(1, 1), (1, 7), (8, 8), (13, 6), (5, 24)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("pair", [(dct2, dct2_reference), (idct2, idct2_reference)], ids=["dct2", "idct2"])
def test_agrees_with_reference(pair, size, dtype, agree):
    agree(*pair, [torch.randn(2, 3, *size)], dtype)


def test_dct2_is_the_orthonormal_matrix_product():
    """Written out again, without anything of the kernel: X = D_h x D_w^T, D orthonormal."""

    def matrix(n):
        rows = [[math.cos(math.pi * u * (2 * i + 1) / (2 * n)) * math.sqrt(2 / n) for i in range(n)] for u in range(n)]
        rows[0] = [math.sqrt(1 / n)] * n
        return torch.tensor(rows, dtype=torch.float64)

    x = torch.randn(2, 37, 64, dtype=torch.float64)
    expected = matrix(37) @ x @ matrix(64).T
    torch.testing.assert_close(dct2(x), expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(idct2(expected), x, atol=1e-12, rtol=0)


def test_dct2_agrees_with_scipy():
    fft = pytest.importorskip("scipy.fft")
    x = torch.randn(2, 63, 100, dtype=torch.float64)
    expected = torch.from_numpy(fft.dctn(x.numpy(), norm="ortho", axes=(1, 2)))
    torch.testing.assert_close(dct2(x), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [*SIZES, (63, 100), (257, 3)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_idct2_inverts(size, dtype):
    x = torch.randn(2, *size).to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}[dtype]
    result = idct2(dct2(x))
    assert result.dtype == dtype
    torch.testing.assert_close(result, x, atol=tolerance, rtol=0)


def test_known_values():
    """A constant has one coefficient, mean * sqrt(h w); a cosine of frequency (1, 2) has one at (1, 2)."""
    expected = torch.zeros(4, 9)
    expected[0, 0] = 2 * 6
    torch.testing.assert_close(dct2(torch.full((4, 9), 2.0)), expected, atol=1e-5, rtol=0)
    rows, columns = torch.arange(4) + 0.5, torch.arange(9) + 0.5
    wave = torch.cos(math.pi * rows / 4)[:, None] * torch.cos(2 * math.pi * columns / 9)
    coefficients = dct2(wave)
    assert coefficients.abs().argmax() == 1 * 9 + 2
    torch.testing.assert_close(coefficients.norm(), coefficients[1, 2])


def test_energy_is_kept():
    x = torch.randn(3, 11, 14, dtype=torch.float64)
    torch.testing.assert_close(dct2(x).norm(), x.norm())


def test_gradcheck():
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dct2, x)
    assert torch.autograd.gradcheck(idct2, x)
    assert torch.autograd.gradcheck(lambda c: low_pass(c, 2), x)


def test_first_use_in_inference_mode_does_not_spoil_later_gradients():
    _cosine_basis.cache_clear()
    with torch.inference_mode():
        dct2(torch.ones(6, 5))
    x = torch.ones(6, 5, requires_grad=True)
    dct2(x).sum().backward()
    torch.testing.assert_close(x.grad, idct2_reference(torch.ones(6, 5)))  # the transform is orthonormal


@pytest.mark.parametrize("threshold", [-1, 0, 2, 2.5, 3, 100])
def test_low_pass_agrees_with_reference(threshold):
    c = torch.randn(2, 3, 5, 4).bfloat16()
    result = low_pass(c, threshold)
    assert result.dtype == c.dtype
    torch.testing.assert_close(result, low_pass_reference(c, threshold), rtol=0, atol=0)


def test_low_pass_keeps_the_diagonal():
    expected = torch.tensor([[1.0, 1, 1], [1, 1, 0]])
    torch.testing.assert_close(low_pass(torch.ones(2, 3), 2), expected)


def test_a_half_precision_threshold_does_not_round_the_frequencies():
    """257 is no bfloat16 number: rounded to 256 it would pass."""
    kept = low_pass(torch.ones(1, 1, 600), torch.tensor([256.0]).bfloat16())
    assert kept.sum() == 257


def test_low_pass_per_sample():
    c = torch.randn(3, 2, 4, 4)
    expected = torch.stack([low_pass(sample, limit) for sample, limit in zip(c, (0, 2, 9), strict=True)])
    torch.testing.assert_close(low_pass(c, torch.tensor([0, 2, 9])), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("power", [1, 2, 1.5])
@pytest.mark.parametrize("threshold", [3, torch.tensor([0.0, 4.5])], ids=["shared", "per sample"])
def test_distance_agrees_with_reference(dtype, power, threshold, agree):
    agree(
        lambda a, b: spectrum_distance(a, b, threshold, power=power),
        lambda a, b: spectrum_distance_reference(a, b, threshold, power=power),
        [torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 5)],
        dtype,
    )


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1), (5, 8), (7, 4)], ids=str)
def test_distance_at_every_threshold(size, power, agree):
    """Only a corner of the coefficients is computed, with masks cut from one table."""
    h, w = size
    a, b = torch.randn(2, 3, h, w), torch.randn(2, 3, h, w)
    last = h + w - 2
    for threshold in (-math.inf, -1, -0.5, *range(last + 1), last / 2 + 0.25, last + 7, math.inf):
        limits = torch.tensor([float(threshold), last - 1.5])
        for limit in (threshold, limits, torch.tensor(float(threshold))):
            agree(
                lambda a, b, limit=limit: spectrum_distance(a, b, limit, power=power),
                lambda a, b, limit=limit: spectrum_distance_reference(a, b, limit, power=power),
                [a, b],
                torch.float64,
            )


def test_distance_of_large_latents_is_not_cached():
    """Tables of sizes that are no latent's would hold memory that nobody can free."""
    _triangle.cache_clear()
    a, b = torch.randn(1, 1, 500, 20), torch.randn(1, 1, 500, 20)
    keep = torch.arange(500)[:, None] + torch.arange(20) <= 30
    torch.testing.assert_close(spectrum_distance(a, b, 30), (dct2(a - b).abs() * keep).mean())
    assert _triangle.cache_info().currsize == 0


def test_distance_first_used_in_inference_mode_does_not_spoil_later_gradients():
    _triangle.cache_clear()
    _cosine_basis.cache_clear()
    x = torch.randn(1, 1, 6, 5)
    with torch.inference_mode():
        spectrum_distance(x, torch.zeros_like(x), 3)
    x.requires_grad_()
    spectrum_distance(x, torch.zeros_like(x), 3).backward()
    assert bool((x.grad != 0).any())


def test_distance_under_autocast_keeps_full_precision():
    a, b = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(spectrum_distance(a, b, 9), _outside_autocast(a, b))


def _outside_autocast(a, b):
    with torch.autocast("cpu", enabled=False):
        return spectrum_distance(a, b, 9)


def test_distance_known_values():
    """A difference of 3 everywhere on 2 x 2: one coefficient of 6 among 4 entries."""
    a = torch.zeros(1, 1, 2, 2)
    assert spectrum_distance(a, a + 3, 0).item() == pytest.approx(6 / 4)
    assert spectrum_distance(a, a + 3, 0, power=2).item() == pytest.approx(36 / 4)
    assert spectrum_distance(a, a + 3, -1).item() == 0


def test_distance_counts_all_frequencies_at_a_high_threshold():
    a, b = torch.randn(2, 4, 8, 6), torch.randn(2, 4, 8, 6)
    torch.testing.assert_close(spectrum_distance(a, b, 99, power=2), (a - b).square().mean())


def test_distance_gradient_at_equality_is_zero():
    a = torch.randn(1, 2, 4, 4, requires_grad=True)
    for power in (1, 1.5, 2):
        (gradient,) = torch.autograd.grad(spectrum_distance(a, a.detach(), 3, power=power), a)
        assert (gradient == 0).all()


@pytest.mark.parametrize("power", [1, 2])
def test_distance_gradcheck(power):
    a, b = (torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    limits = torch.tensor([1, 3])
    assert torch.autograd.gradcheck(lambda a, b: spectrum_distance(a, b, limits, power=power), (a, b))


@pytest.mark.parametrize("power", [1, 1.5, 2])
@pytest.mark.parametrize("threshold", [-1, 2, 5, torch.tensor([1.0, 4.0])], ids=str)
def test_distance_gradients_are_those_of_the_definition(power, threshold):
    a, b = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = torch.autograd.grad(3 * spectrum_distance(a, b, threshold, power=power), (a, b))
    wanted = torch.autograd.grad(3 * spectrum_distance_reference(a, b, threshold, power=power), (a, b))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    (alone,) = torch.autograd.grad(spectrum_distance(a.detach(), b, threshold, power=power), b)
    torch.testing.assert_close(3 * alone, found[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("power", [1, 2])
def test_distance_second_derivatives(power):
    a, b = (torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradgradcheck(lambda a, b: spectrum_distance(a, b, 3, power=power).square(), (a, b))


def test_misuse():
    x = torch.zeros(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"b must be \[B, C, h, w\] with.*\[2, 3, 4, 4\]"):
        spectrum_distance(x, x[..., :4], 1)
    with pytest.raises(ValueError, match=r"threshold.*\[3\]"):
        spectrum_distance(x, x, torch.zeros(3))
    with pytest.raises(ValueError, match="power must be at least 1"):
        spectrum_distance(x, x, 1, power=0.5)
    with pytest.raises(ValueError, match="power must be a finite number, got inf"):
        spectrum_distance(x, x, 1, power=math.inf)
    for wrong in (math.nan, "3", None, [1, 2]):
        with pytest.raises(ValueError, match="threshold must be a number or a tensor"):
            spectrum_distance(x, x, wrong)
    with pytest.raises(ValueError, match=r"threshold \[2\] holds NaN"):
        low_pass(x, torch.tensor([1, math.nan]))
    with pytest.raises(ValueError, match="threshold must be real"):
        low_pass(x, torch.ones(2, dtype=torch.complex64))
    for empty in (x[:0], x[:, :0]):
        with pytest.raises(ValueError, match="is empty: there is nothing to take the mean of"):
            spectrum_distance(empty, empty, 1)
    for function in (dct2, idct2):
        with pytest.raises(ValueError, match=r"x must be \[\.\.\., h, w\].*\[5\]"):
            function(torch.zeros(5))
        with pytest.raises(ValueError, match=r"\[0, 3\]"):
            function(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="c must be floating point"):
        low_pass(torch.zeros(3, 3, dtype=torch.int64), 1)
