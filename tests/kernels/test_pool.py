import pytest
import torch

from regionstyle.kernels import masked_pool
from regionstyle.kernels.pool import masked_pool_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("over", ["area", "all"])
@pytest.mark.parametrize("size", [(1, 1, 1, 2), (2, 3, 7, 5), (3, 5, 63, 40)], ids=str)
def test_agrees_with_reference(size, over, dtype, agree):
    b, _, h, w = size
    agree(
        lambda x, mask: masked_pool(x, mask, over=over),
        lambda x, mask: masked_pool_reference(x, mask, over=over),
        [torch.randn(size) + 1, torch.rand(b, 1, h, w) * 0.9 + 0.05],
        dtype,
        slack=2,
    )


@pytest.mark.parametrize("over", ["area", "all"])
def test_gradcheck(over):
    x = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(2, 1, 3, 4).double() * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, mask: masked_pool(x, mask, over=over), (x, mask))


def test_known_values():
    x = torch.tensor([1.0, 2, 4, 8]).view(1, 1, 2, 2)
    mask = torch.tensor([1, 1, 0, 1]).view(1, 1, 2, 2)
    torch.testing.assert_close(masked_pool(x, mask), torch.tensor([[[11 / 3], [4.0]]]))
    torch.testing.assert_close(masked_pool(x, mask, over="all"), torch.tensor([[[11 / 4], [1.0]]]))
    torch.testing.assert_close(masked_pool(x, mask.bool()), masked_pool(x, mask))


@pytest.mark.parametrize("over", ["area", "all"])
@pytest.mark.parametrize(("value", "empty"), [(0.0, 0), (1.0, 1)])
def test_an_empty_side_is_zero_with_zero_gradients(over, value, empty):
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    mask = torch.full((2, 1, 4, 5), value, requires_grad=True)
    result = masked_pool(x, mask, over=over)
    assert (result[:, empty] == 0).all()
    torch.testing.assert_close(result[:, 1 - empty], x.mean((-2, -1)))
    for gradient in torch.autograd.grad(result[:, empty].sum(), (x, mask), retain_graph=True):
        assert (gradient == 0).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(result.sum(), (x, mask)))


def test_large_half_maps_do_not_overflow():
    x = torch.full((1, 2, 300, 300), 100.0, dtype=torch.float16)
    torch.testing.assert_close(masked_pool(x, torch.ones(1, 1, 300, 300).half())[:, 0], x[..., 0, 0])


@pytest.mark.parametrize(
    ("x", "mask", "over", "message"),
    [
        ((2, 3, 4, 5), (2, 3, 4, 5), "area", r"mask must be \[B, 1, H, W\] with B=2, H=4, W=5, got \[2, 3, 4, 5\]"),
        ((2, 3, 4, 5), (2, 1, 5, 4), "area", r"mask must be.*\[2, 1, 5, 4\]"),
        ((3, 4, 5), (2, 1, 4, 5), "area", r"x must be \[B, C, H, W\]"),
        ((2, 3, 4, 5), (2, 1, 4, 5), "mean", "over must be 'area' or 'all', got 'mean'"),
    ],
)
def test_misuse(x, mask, over, message):
    with pytest.raises(ValueError, match=message):
        masked_pool(torch.zeros(x), torch.zeros(mask), over=over)
