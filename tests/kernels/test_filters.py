import pytest
import torch

from regionstyle.kernels import adaptive_filter
from regionstyle.kernels.filters import adaptive_filter_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
STEP = 0.0010004043579101562


def one_hot(index):
    alpha = torch.zeros(9, dtype=torch.float64)
    alpha[index] = 1
    return alpha


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 8, 8), (2, 3, 9, 23), (1, 2, 40, 63)], ids=str)
def test_agrees_with_reference(size, dtype, agree):
    weights = torch.randn(9)
    weights[:8] *= 300  # so that each of the eight small filters counts
    agree(adaptive_filter, adaptive_filter_reference, [torch.randn(size), weights, torch.randn(1)], dtype, slack=2)


def test_gradcheck():
    x = torch.randn(1, 2, 8, 9, dtype=torch.float64, requires_grad=True)
    alpha, beta = (torch.randn(n, dtype=torch.float64, requires_grad=True) for n in (9, 1))
    assert torch.autograd.gradcheck(adaptive_filter, (x, alpha, beta))


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, "1 0 -1  2 0 -2  1 0 -1"),
        (1, "1 2 1  0 0 0  -1 -2 -1"),
        (2, "0 1 0  1 -4 1  0 1 0"),
        (3, "-1 -1 -1  -1 8 -1  -1 -1 -1"),
        (4, "0 1 2  -1 0 1  -2 -1 0"),
        (5, "-2 -1 0  -1 0 1  0 1 2"),
        (6, "1 0 0  0 -1 0  0 0 0"),
        (7, "0 1 0  -1 0 0  0 0 0"),
    ],
)
def test_bank_and_its_order(index, rows):
    """A single bright pixel shows the kernel turned by half a turn (correlation)."""
    x = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    x[..., 4, 4] = 1
    result = adaptive_filter(x, one_hot(index), torch.zeros(1).double())[0, 0, 3:6, 3:6]
    expected = torch.tensor([float(v) for v in rows.split()], dtype=torch.float64).view(3, 3)
    torch.testing.assert_close(result.flip(0, 1), STEP * expected, atol=1e-15, rtol=0)


def test_agrees_with_the_published_folded_kernel():
    """Specification 2.3, folded form: one 3 x 3 kernel written out in the nine weights, minus the Gaussian."""
    a, beta = torch.randn(9, dtype=torch.float64), torch.randn(1, dtype=torch.float64)
    rows = [
        [
            a[0] + a[1] - a[3] - 2 * a[5] + a[6],
            2 * a[1] + a[2] - a[3] + a[4] - a[5] + a[7],
            -a[0] + a[1] - a[3] + 2 * a[4],
        ],
        [
            2 * a[0] + a[2] - a[3] - a[4] - a[5] - a[7],
            -4 * a[2] + 8 * a[3] - a[6],
            -2 * a[0] + a[2] - a[3] + a[4] + a[5],
        ],
        [a[0] - a[1] - a[3] - 2 * a[4], -2 * a[1] + a[2] - a[3] - a[4] + a[5], -a[0] - a[1] - a[3] + 2 * a[5]],
    ]
    kernel = STEP * torch.tensor(rows, dtype=torch.float64)
    kernel[1, 1] += beta[0] + a[8]
    g = torch.exp(-(torch.arange(-7, 8, dtype=torch.float64) ** 2) / 50)
    gaussian = torch.outer(g, g) / g.sum() ** 2
    x = torch.randn(2, 1, 11, 17, dtype=torch.float64)
    local = torch.nn.functional.conv2d(x, kernel[None, None], padding=1)
    blurred = torch.nn.functional.conv2d(torch.nn.functional.pad(x, [7] * 4, mode="reflect"), gaussian[None, None])
    torch.testing.assert_close(adaptive_filter(x, a, beta), local - a[8] * blurred, atol=1e-12, rtol=0)


def test_zero_padding_of_the_small_kernels():
    """Laplace of a constant: 0 inside, -1 per missing neighbour at the frame."""
    result = adaptive_filter(torch.ones(1, 1, 8, 8).double(), one_hot(2), torch.zeros(1).double())[0, 0]
    assert result[4, 4].abs() < 1e-15
    torch.testing.assert_close(torch.stack([result[0, 4], result[0, 0]]), torch.tensor([-STEP, -2 * STEP]).double())


def test_beta_is_the_identity_and_high_pass_ignores_constants():
    x = torch.randn(2, 3, 10, 12, dtype=torch.float64)
    torch.testing.assert_close(adaptive_filter(x, torch.zeros(9).double(), torch.ones(1).double() * 2), 2 * x)
    flat = adaptive_filter(torch.ones_like(x), one_hot(8), torch.zeros(1).double())
    torch.testing.assert_close(flat, torch.zeros_like(x))


def test_gaussian_is_the_published_one():
    """The specification prints its 15 weights to 8 digits."""
    g = [0.03453786, 0.04479319, 0.05581576, 0.06682359, 0.07686543, 0.08494943, 0.09020242, 0.09202462]
    x = torch.zeros(1, 1, 31, 31, dtype=torch.float64)
    x[..., 15, 15] = 1
    blurred = x - adaptive_filter(x, one_hot(8), torch.zeros(1).double())
    line = torch.tensor([*g, *g[-2::-1]], dtype=torch.float64)
    torch.testing.assert_close(blurred[0, 0, 8:23, 8:23], torch.outer(line, line), atol=1e-8, rtol=0)


def test_blur_agrees_with_torchvision():
    functional = pytest.importorskip("torchvision.transforms.functional")
    x = torch.randn(2, 3, 8, 21)
    expected = x - functional.gaussian_blur(x, [15, 15], [5.0, 5.0])
    torch.testing.assert_close(adaptive_filter(x, one_hot(8).float(), torch.zeros(1)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("x", "alpha", "beta", "message"),
    [
        ((1, 2, 7, 9), 9, 1, r"x must have H, W >= 8.*got \[1, 2, 7, 9\]"),
        ((2, 8, 8), 9, 1, r"x must be \[B, C, H, W\]"),
        ((1, 2, 8, 8), 8, 1, r"alpha must be \[9\].*\[8\]"),
        ((1, 2, 8, 8), 9, 2, r"beta must be \[1\].*\[2\]"),
    ],
)
def test_misuse(x, alpha, beta, message):
    with pytest.raises(ValueError, match=message):
        adaptive_filter(torch.zeros(x), torch.zeros(alpha), torch.zeros(beta))
