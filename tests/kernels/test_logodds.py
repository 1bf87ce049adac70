import math

import pytest
import torch

from regionstyle.kernels import token_attention, token_logodds
from regionstyle.kernels.logodds import token_logodds_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def make(b, h, n, m, d, dtype=torch.float64):
    return torch.randn(b, h, n, d, dtype=dtype), torch.randn(b, h, m, d, dtype=dtype)


def sets(*rows):
    return torch.tensor(rows, dtype=torch.bool)


def random_groups(shape):
    groups = torch.rand(shape) < 0.3
    groups[..., 0], groups[..., 1] = True, False
    return groups


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 2, 1), (2, 3, 63, 7, 5), (1, 2, 100, 77, 40), (3, 1, 17, 123, 8)], ids=str)
@pytest.mark.parametrize("per_sample", [False, True], ids=["shared", "per sample"])
def test_agrees_with_reference(size, dtype, per_sample, agree):
    b, _, _, m, _ = size
    groups = random_groups((b, 3, m) if per_sample else (3, m))
    valid = torch.rand((b, m) if per_sample else (m,)) < 0.8
    valid[..., :2] = True
    options = {"valid": None if m == 2 else valid, "reduce_heads": per_sample}
    agree(
        lambda q, k: token_logodds(q, k, groups, **options),
        lambda q, k: token_logodds_reference(q, k, groups, **options),
        make(*size),
        dtype,
        slack=2,
    )


def test_gradcheck():
    q, k = (t.requires_grad_() for t in make(2, 2, 4, 6, 3))
    groups, valid = sets([1, 1, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0]), sets([1, 1, 1, 1, 1, 0], [1] * 6)
    assert torch.autograd.gradcheck(lambda q, k: token_logodds(q, k, groups, valid), (q, k))
    assert torch.autograd.gradcheck(lambda q, k: token_logodds(q, k, groups, reduce_heads=False, scale=2.0), (q, k))


def test_an_indifferent_network_gives_zero():
    q, k = torch.randn(1, 2, 5, 4), torch.ones(1, 2, 9, 4)
    result = token_logodds(q, k, sets([1, 1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0, 0, 0]))
    torch.testing.assert_close(result, torch.zeros(1, 2, 5), atol=1e-6, rtol=0)


def test_known_value():
    """Exponentials 6 | 1, 2: ln 6 - ln 3 - ln(1/2) = ln 4; without the last key ln 6 - ln 1."""
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([6.0, 1.0, 2.0]).log().view(1, 1, 3, 1)
    group = sets([1, 0, 0])
    torch.testing.assert_close(token_logodds(q, k, group), torch.tensor([[[math.log(4)]]]))
    torch.testing.assert_close(token_logodds(q, k, group, sets([1, 1, 0])[0]), torch.tensor([[[math.log(6)]]]))


def test_sigmoid_is_the_text_restricted_share():
    """Per head, share = sigmoid(c + ln(|G|/|R|)) (specification 10.1)."""
    q, k = make(2, 3, 8, 10, 4)
    valid = torch.arange(10) < 8
    odds = token_logodds(q, k, sets([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]), valid, reduce_heads=False)[:, :, 0]
    share = token_attention(q, k, [0, 3], support=valid, reduce_heads=False).sum(-1)
    torch.testing.assert_close(torch.sigmoid(odds + math.log(2 / 6)), share)


def test_invalid_keys_of_a_group_are_ignored():
    q, k = make(1, 2, 5, 6, 4)
    valid = sets([1, 1, 1, 1, 0, 0])[0]
    both = token_logodds(q, k, sets([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]), valid)
    torch.testing.assert_close(both[:, 0], both[:, 1])
    k[:, :, 4:] = 50.0
    torch.testing.assert_close(token_logodds(q, k, sets([1, 0, 0, 0, 1, 0]), valid)[:, 0], both[:, 0])


def test_one_token_still_has_a_gradient():
    q, k = (t.requires_grad_() for t in make(1, 1, 3, 4, 2))
    (gradient,) = torch.autograd.grad(token_logodds(q, k, sets([0, 1, 0, 0])).sum(), q)
    assert gradient.abs().max() > 1e-3


def test_far_apart_groups_stay_finite():
    q = torch.full((1, 1, 2, 1), 10.0, requires_grad=True)
    k = torch.tensor([-100.0, 100.0, 90.0]).view(1, 1, 3, 1)
    result = token_logodds(q, k, sets([1, 0, 0]), scale=1.0)
    torch.testing.assert_close(result, torch.full_like(result, -2000 + math.log(2)))
    assert torch.autograd.grad(result.sum(), q)[0].isfinite().all()


@pytest.mark.parametrize(
    ("groups", "valid", "message"),
    [
        (sets([1, 0, 0], [0, 0, 0]), None, "group 1 of sample 0 is empty"),
        (sets([1, 1, 1]), None, "group 0 of sample 0 has no key left"),
        (sets([0, 0, 1]), sets([1, 1, 0])[0], "group 0 of sample 0 is empty: it has no valid key"),
        (sets([1, 0, 0]), sets([1, 1, 1], [1, 0, 0]), "group 0 of sample 1 has no key left"),
        (sets([1, 0, 0]).float(), None, "groups must be bool"),
        (sets([1, 0, 0]), torch.ones(3), "valid must be bool"),
        (sets([1, 0]), None, r"groups must be \[G, 3\].*\[1, 2\]"),
        (sets([1, 0, 0])[None].expand(3, 1, 3), None, r"groups must be \[2, G, 3\].*\[3, 1, 3\]"),
        (sets([1, 0, 0])[0], None, r"groups must be"),
        (sets([1, 0, 0])[:0], None, "groups .* is empty"),
        ([[True, False, False]], None, "groups must be a tensor, got list"),
        (sets([1, 0, 0]), [True] * 3, "valid must be a tensor, got list"),
        (sets([1, 0, 0]), sets([1, 1])[0], r"valid must be \[3\].*\[2\]"),
    ],
)
def test_misuse(groups, valid, message):
    with pytest.raises(ValueError, match=message):
        token_logodds(torch.zeros(2, 1, 4, 2), torch.zeros(2, 1, 3, 2), groups, valid)


def test_scale_and_heads_are_checked():
    with pytest.raises(ValueError, match="scale must be a finite number, got inf"):
        token_logodds(torch.zeros(2, 1, 4, 2), torch.zeros(2, 1, 3, 2), sets([1, 0, 0]), scale=math.inf)
    with pytest.raises(ValueError, match="at least one head"):
        token_logodds(torch.zeros(2, 0, 4, 2), torch.zeros(2, 0, 3, 2), sets([1, 0, 0]))


def test_autocast_rounds_neither_the_result_nor_the_gradient():
    q, k = (t.requires_grad_() for t in make(1, 2, 20, 30, 16, torch.float32))
    group = sets([1] * 3 + [0] * 27)

    def both():
        result = token_logodds(q, k, group)
        return [result.detach(), *torch.autograd.grad(result.square().sum(), (q, k))]

    expected = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = both()
    for got, want in zip(rounded, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_graph_is_freed(no_leak):
    q, k = (t.requires_grad_() for t in make(1, 1, 4, 5, 3))
    no_leak(lambda: token_logodds(q, k, sets([1, 0, 0, 0, 0])))
