import pytest
import torch

from regionstyle.kernels import routed_lora
from regionstyle.kernels.lora import routed_lora_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def make(b, n, i, o, e, r, per_token):
    gate = torch.randn((b, n, e) if per_token else (b, e), dtype=torch.float64)
    shapes = ((b, n, i), (e, r, i), (e, o, r))
    x, down, up = (torch.randn(*shape, dtype=torch.float64) for shape in shapes)
    return x, down, up, gate, torch.rand(e).double() + 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1, 1), (2, 63, 5, 7, 3, 4), (3, 2, 40, 24, 5, 3)], ids=str)
@pytest.mark.parametrize("per_token", [False, True], ids=["per sample", "per token"])
def test_agrees_with_reference(size, per_token, dtype, agree):
    agree(routed_lora, routed_lora_reference, make(*size, per_token), dtype)


@pytest.mark.parametrize("per_token", [False, True])
def test_gradcheck(per_token):
    tensors = [t.requires_grad_() for t in make(2, 3, 4, 2, 2, 3, per_token)]
    assert torch.autograd.gradcheck(routed_lora, tensors)
    assert torch.autograd.gradgradcheck(routed_lora, tensors)


def test_known_value():
    """One number in, two experts: 1 * 0.5 * (2 * 3 * 5) + 10 * 1 * (2 * 7 * 1) = 155."""
    down, up = torch.tensor([3.0, 7.0]).view(2, 1, 1), torch.tensor([5.0, 1.0]).view(2, 1, 1)
    result = routed_lora(torch.tensor([[[2.0]]]), down, up, torch.tensor([[0.5, 1.0]]), torch.tensor([1.0, 10.0]))
    assert result.item() == 155


def test_gate_zero_is_exactly_zero():
    x, down, up, gate, scale = (t.float() for t in make(2, 5, 4, 3, 2, 4, True))
    gate[:, 2] = 0
    result = routed_lora(x, down, up, gate, scale)
    assert (result[:, 2] == 0).all()
    assert (result[:, 1] != 0).all()


def test_constant_token_gate_equals_sample_gate():
    x, down, up, gate, scale = make(2, 5, 4, 3, 2, 4, False)
    expanded = gate[:, None].expand(2, 5, 2)
    torch.testing.assert_close(routed_lora(x, down, up, expanded, scale), routed_lora(x, down, up, gate, scale))


def test_one_full_gate_equals_ordinary_lora():
    x, down, up, gate, scale = make(2, 5, 4, 3, 2, 4, False)
    gate[:] = torch.tensor([0.0, 1.0])
    merged = scale[1] * up[1] @ down[1]
    torch.testing.assert_close(routed_lora(x, down, up, gate, scale), x @ merged.T)


@pytest.mark.parametrize(
    ("index", "shape", "message"),
    [
        (0, (2, 5), r"x must be \[B, N, I\]"),
        (1, (2, 4, 3), r"down must be \[E, R, I\] with.*I=4.*\[2, 4, 3\]"),
        (2, (3, 3, 4), r"up must be \[E, O, R\] with E=2.*\[3, 3, 4\]"),
        (2, (2, 3, 5), r"up must be"),
        (3, (2, 3), r"gate must be \[B, E\].*\[2, 3\]"),
        (3, (2, 4, 2), r"gate must be \[B, N, E\].*\[2, 4, 2\]"),
        (4, (1,), r"scale must be \[E\] with E=2.*\[1\]"),
    ],
)
def test_misuse(index, shape, message):
    tensors = list(make(2, 5, 4, 3, 2, 4, False))
    tensors[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=message):
        routed_lora(*tensors)


def test_more_misuse():
    x, down, up, gate, scale = make(2, 5, 4, 3, 2, 4, False)
    with pytest.raises(ValueError, match="gate must be a tensor, got float"):
        routed_lora(x, down, up, 0.5, scale)
    with pytest.raises(ValueError, match="gate must be floating point, got torch.int64"):
        routed_lora(x, down, up, gate.long(), scale)
    with pytest.raises(ValueError, match=r"down \[0, 4, 4\] holds no expert"):
        routed_lora(x, down[:0], up[:0], gate[:, :0], scale[:0])


def test_autocast_does_not_round():
    tensors = [t.float() for t in make(2, 5, 40, 3, 2, 4, True)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = routed_lora(*tensors)
    torch.testing.assert_close(rounded, routed_lora(*tensors), rtol=0, atol=0)
