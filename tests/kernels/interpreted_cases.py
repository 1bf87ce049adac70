"""Cases for Triton's interpreter, which `test_triton.py` runs in a process of their own.

The interpreter takes the place of the compiler from the moment Triton is imported (TRITON_INTERPRET=1). It multiplies
bfloat16 as if it were integers, so that float16 and float32 are compared here and bfloat16 on a GPU only.
"""

import os

import pytest
import torch

from regionstyle import kernels
from regionstyle.kernels import _logsumexp
from regionstyle.kernels.attention import token_attention_reference
from regionstyle.kernels.logodds import token_logodds_reference

assert os.environ.get("TRITON_INTERPRET") == "1", "start these through test_triton.py"


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """The fused kernels take every tensor they support, wherever it lies; a test that never reached them fails."""
    from regionstyle.kernels.triton import logsumexp as module

    taken = []

    def fused(q, k):
        taken.append(module.supports(q, k))
        return module if taken[-1] else None

    monkeypatch.setattr(_logsumexp, "_fused", fused)
    yield
    assert any(taken), "no call reached the fused kernels"


def leaves(rows, keys, channels, dtype):
    random = torch.Generator().manual_seed(rows + keys + channels)
    # q lies in memory as attention leaves it, with heads inside rows.
    q = torch.randn(2, rows, 2, channels, generator=random).transpose(1, 2)
    k = torch.randn(2, 2, keys, channels, generator=random)
    return [x.to(dtype).detach().requires_grad_() for x in (q, k)]


def compare(call, reference, q, k, atol):
    """Value and gradients of the call beside those of the definition in float64."""
    exact = [x.detach().double().requires_grad_() for x in (q, k)]
    truth, found = reference(*exact), call(q, k)
    above = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert found.dtype == q.dtype
    wanted = torch.autograd.grad(truth, exact, above)
    given = torch.autograd.grad(found, (q, k), above.to(found.dtype))
    for one, other in zip((found, *given), (truth, *wanted), strict=True):
        torch.testing.assert_close(one.double(), other, atol=atol, rtol=atol)


# Fewer than a block, a block and one more; channels that are no power of two.
@pytest.mark.parametrize(("rows", "keys", "channels"), [(5, 3, 1), (65, 17, 40), (16, 33, 130)])
def test_token_attention(rows, keys, channels):
    q, k = leaves(rows, keys, channels, torch.float32)
    support = torch.arange(keys) % 3 != 1
    for options in ({}, {"support": support}):
        compare(
            lambda q, k, o=options: kernels.token_attention(q, k, [0, 2], **o),
            lambda q, k, o=options: token_attention_reference(q, k, [0, 2], **o),
            q,
            k,
            2e-5,
        )


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-5), (torch.float16, 4e-3)])
def test_token_logodds(dtype, atol):
    q, k = leaves(35, 19, 24, dtype)
    groups = torch.zeros(2, 2, 19, dtype=torch.bool)
    groups[0, 0, 1:4] = groups[0, 1, 18] = groups[1, 0, 5] = groups[1, 1, 2:9] = True
    valid = torch.arange(19) != 7
    compare(
        lambda q, k: kernels.token_logodds(q, k, groups, valid),
        lambda q, k: token_logodds_reference(q, k, groups, valid),
        q,
        k,
        atol,
    )


def test_gradient_of_keys_over_several_parts():
    q, k = leaves(1100, 4, 8, torch.float32)  # more rows than one program sums up
    compare(
        lambda q, k: kernels.token_attention(q, k, [1]),
        lambda q, k: token_attention_reference(q, k, [1]),
        q,
        k,
        1e-4,
    )


def test_gradient_of_many_keys_in_longer_parts(monkeypatch):
    from regionstyle.kernels.triton import logsumexp as module

    monkeypatch.setattr(module, "PART", 64)
    assert module.part_rows(200, 70) == 128  # one part and a half
    q, k = leaves(200, 70, 2, torch.float32)
    compare(
        lambda q, k: kernels.token_attention(q, k, [1]),
        lambda q, k: token_attention_reference(q, k, [1]),
        q,
        k,
        1e-4,
    )


def test_a_logit_that_overflows_gives_infinity():
    q = torch.tensor([torch.inf, 3e38, -torch.inf, 1.0])[None, None, :, None]
    k = torch.full((1, 1, 70, 1), 0.1)
    k[:, :, 65:] = 10.0  # the second row overflows in the second block only
    found = _logsumexp.key_logsumexp(q, k, None, 1.0)
    torch.testing.assert_close(found[:, :, 0], (q @ k.transpose(-1, -2)).logsumexp(-1))


def test_the_default_dtype_does_not_matter():
    q, k = leaves(5, 3, 4, torch.float16)
    wanted = torch.logsumexp(q.double() @ k.double().transpose(-1, -2), -1)
    torch.set_default_dtype(torch.float16)
    try:
        found = _logsumexp.key_logsumexp(q, k, None, 1.0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, :, 0].double(), wanted, atol=1e-5, rtol=1e-5)


def test_keys_far_outside_the_support_do_not_overflow():
    q, k = torch.full((1, 1, 3, 4), 10.0), torch.zeros(1, 1, 4, 4)
    k[0, 0, 0] = 50.0  # a logit of 1000 that is left out
    k.requires_grad_()
    found = kernels.token_attention(q, k, [1, 2], support=torch.tensor([False, True, True, True]))
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3))
    assert torch.autograd.grad(found.sum(), k)[0].isfinite().all()
