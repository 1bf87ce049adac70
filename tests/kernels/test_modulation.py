import pytest
import torch

from regionstyle.kernels import modulate
from regionstyle.kernels.modulation import modulate_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def make(b, c, h, w):
    return [torch.randn(b, c, h, w), torch.randn(b, c), torch.randn(b, c), torch.rand(b, 1, h, w)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (2, 3, 7, 5), (3, 5, 63, 4)], ids=str)
def test_agrees_with_reference(size, dtype, agree):
    agree(modulate, modulate_reference, make(*size), dtype)


def test_gradcheck():
    tensors = [t.double().requires_grad_() for t in make(2, 3, 2, 4)]
    assert torch.autograd.gradcheck(modulate, tensors)


def test_known_values():
    x = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    result = modulate(x, torch.tensor([[4.0]]), torch.tensor([[0.5]]), torch.tensor([0.0, 1.0, 0.5]).view(1, 1, 1, 3))
    torch.testing.assert_close(result.flatten(), torch.tensor([1.0, 10.5, 0.5 * 15.5 + 0.5 * 3]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_background_is_bit_equal(dtype):
    x, scale, shift, _ = (t.to(dtype) for t in make(2, 3, 8, 8))
    mask = torch.rand(2, 1, 8, 8) < 0.5
    result = modulate(x, scale, shift, mask)
    outside = ~mask.expand_as(x)
    assert torch.equal(result[outside], x[outside])
    assert not torch.equal(result, x)


def test_zero_scale_and_shift_is_the_identity():
    x, _, _, mask = make(2, 3, 5, 5)
    assert torch.equal(modulate(x, torch.zeros(2, 3), torch.zeros(2, 3), mask), x)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (3, 4, 5), r"x must be \[B, C, H, W\]"),
        (1, (2, 4), r"scale must be \[B, C\] with B=2, C=3, got \[2, 4\]"),
        (2, (3,), r"shift must be \[B, C\].*\[3\]"),
        (3, (2, 3, 4, 5), r"mask must be \[B, 1, H, W\].*\[2, 3, 4, 5\]"),
    ],
)
def test_misuse(index, shape, message):
    tensors = make(2, 3, 4, 5)
    tensors[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        modulate(*tensors)
