import pytest
import torch

from regionstyle.kernels import _logsumexp, token_attention
from regionstyle.kernels.attention import token_attention_reference

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SIZES = [(1, 1, 1, 1, 1), (2, 3, 63, 7, 5), (1, 2, 100, 77, 40), (3, 1, 17, 123, 8)]


def make(b, h, n, m, d, dtype=torch.float64):
    return torch.randn(b, h, n, d, dtype=dtype), torch.randn(b, h, m, d, dtype=dtype)


def a_support(b, m, per_sample):
    support = torch.rand((b, m) if per_sample else (m,)) < 0.6
    support[..., 0] = True
    return support


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("support", ["all", "shared", "per sample"])
def test_agrees_with_reference(size, dtype, support, agree):
    b, _, _, m, _ = size
    keep = None if support == "all" else a_support(b, m, support == "per sample")
    options = {"support": keep, "reduce_heads": support == "shared"}
    tokens = [0, m - 1, m // 2]
    agree(
        lambda q, k: token_attention(q, k, tokens, **options),
        lambda q, k: token_attention_reference(q, k, tokens, **options),
        make(*size),
        dtype,
    )


@pytest.mark.parametrize("integer", [torch.int64, torch.int32], ids=str)
def test_padded_tokens_agree_with_reference(integer, agree):
    tokens = torch.tensor([[3, -1, 0], [-1, -1, -1]], dtype=integer)
    for keep in (None, a_support(2, 9, True)):
        agree(
            lambda q, k, keep=keep: token_attention(q, k, tokens, support=keep, scale=0.3),
            lambda q, k, keep=keep: token_attention_reference(q, k, tokens, support=keep, scale=0.3),
            make(2, 2, 11, 9, 4),
            torch.float64,
        )


def test_gradcheck():
    q, k = (t.requires_grad_() for t in make(2, 2, 5, 6, 3))
    tokens = torch.tensor([[1, -1], [5, 0]])
    support = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 0, 0, 0, 1]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda q, k: token_attention(q, k, tokens, support=support), (q, k))
    assert torch.autograd.gradcheck(lambda q, k: token_attention(q, k, [2, 2], reduce_heads=False), (q, k))


def test_all_columns_sum_to_one():
    q, k = make(2, 3, 31, 13, 8, torch.float32)
    total = token_attention(q, k, list(range(13))).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_known_values():
    """Two keys with logits ln 3 and 0: shares 3/4 and 1/4; with one key as support its share is 1."""
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([3.0, 1.0]).log().view(1, 1, 2, 1)
    torch.testing.assert_close(token_attention(q, k, [0, 1]), torch.tensor([[[0.75, 0.25]]]))
    only = torch.tensor([True, False])
    torch.testing.assert_close(token_attention(q, k, [0, 1], support=only), torch.tensor([[[1.0, 0.0]]]))
    torch.testing.assert_close(token_attention(q, k, [0], scale=2.0), torch.tensor([[[0.9]]]))


def test_heads_are_averaged():
    q, k = make(2, 3, 4, 5, 6)
    per_head = token_attention(q, k, [1, 4], reduce_heads=False)
    assert per_head.shape == (2, 3, 4, 2)
    torch.testing.assert_close(token_attention(q, k, [1, 4]), per_head.mean(1))


def test_padding_has_zero_columns_and_gradients():
    q, k = (t.requires_grad_() for t in make(1, 2, 4, 5, 3))
    result = token_attention(q, k, torch.tensor([[-1, -1]]))
    assert (result == 0).all()
    for gradient in torch.autograd.grad(result.sum(), (q, k)):
        assert (gradient == 0).all()


def test_a_token_far_above_the_support_stays_zero():
    """Its exponential would overflow: value 0, and gradients that are numbers."""
    q, k = torch.full((1, 1, 2, 1), 30.0), torch.tensor([0.0, 1.0, 900.0]).view(1, 1, 3, 1)
    q, k = q.requires_grad_(), k.requires_grad_()
    result = token_attention(q, k, [2, 1], support=torch.tensor([True, True, False]))
    assert (result[..., 0] == 0).all()
    assert (result[..., 1] > 0.99).all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(result.sum(), (q, k)))


def test_large_logits_do_not_overflow():
    """Logits of thousands, whose exponentials are infinite in float32."""
    q, k = make(1, 1, 9, 20, 8, torch.float32)
    maps = (100 * q.double() @ (100 * k.double()).mT * 8**-0.5).softmax(-1)
    token = int(maps[0, 0, 0].argmax())
    assert maps[0, 0, 0, token] > 0.5
    torch.testing.assert_close(token_attention(100 * q, 100 * k, [token])[..., 0].double(), maps[:, 0, :, token])


def test_the_map_is_never_held(monkeypatch):
    """No allocation of N * M numbers in either direction, also when the whole map would fit the budget."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for value in result if isinstance(result, tuple | list) else [result]:
                if isinstance(value, torch.Tensor):
                    self.size = max(self.size, value.numel())
            return result

    q, k = (t.requires_grad_() for t in make(1, 1, 512, 512, 4, torch.float32))
    with Largest() as largest:
        torch.autograd.grad(token_attention(q, k, [1, 5]).sum(), (q, k))
    assert largest.size <= 512 * 512 // 8


@pytest.mark.parametrize("elements", [1, 50, 10**9])
def test_pieces_do_not_change_the_result(elements, monkeypatch):
    monkeypatch.setattr(_logsumexp, "_CPU_ELEMENTS", elements)
    q, k = make(2, 2, 37, 6, 4)
    torch.testing.assert_close(token_attention(q, k, [2]), token_attention_reference(q, k, [2]))


def test_autocast_does_not_round():
    q, k = make(1, 2, 20, 30, 16, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = token_attention(q, k, [4])
    torch.testing.assert_close(rounded, token_attention(q, k, [4]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "tokens is empty"),
        ({"tokens": torch.zeros(2, 0, dtype=torch.long)}, "tokens is empty"),
        ({"tokens": [0, 6]}, r"tokens must lie in 0\.\.5.*0\.\.6"),
        ({"tokens": [-1]}, r"tokens must lie in 0\.\.5"),
        ({"tokens": torch.tensor([[0], [-2]])}, r"tokens must lie in -1\.\.5"),
        ({"tokens": torch.tensor([[0], [6]])}, r"tokens must lie in -1\.\.5"),
        ({"tokens": torch.tensor([0, 1, 2])}, r"tokens must be \[2, T\].*\[3\]"),
        ({"tokens": torch.tensor([[0.0], [1.0]])}, "tokens must be ints"),
        ({"support": torch.zeros(6, dtype=torch.bool)}, "support .* is empty"),
        ({"support": torch.tensor([[True] * 6, [False] * 6])}, "support .* is empty"),
        ({"support": torch.ones(5, dtype=torch.bool)}, r"support must be \[6\].*\[5\]"),
        ({"support": torch.ones(3, 6, dtype=torch.bool)}, r"support must be \[2, 6\].*\[3, 6\]"),
        ({"support": torch.ones(6)}, "support must be bool"),
        ({"k": torch.zeros(2, 3, 6, 5)}, r"k must be \[B, H, M, D\] with B=2, H=3, D=4.*\[2, 3, 6, 5\]"),
        ({"tokens": [0.5]}, r"tokens must be ints, got \[0\.5\]"),
        ({"tokens": [True]}, "tokens must be ints"),
        ({"tokens": [[0], [1]]}, "tokens must be ints"),
        ({"tokens": 3}, r"tokens must be ints or a tensor \[B, T\], got int"),
        ({"tokens": torch.zeros(2, 1, dtype=torch.bool)}, "tokens must be ints, got torch.bool"),
        ({"support": [True] * 6}, "support must be a tensor, got list"),
        ({"support": torch.ones(2, 1, 6, dtype=torch.bool)}, r"support must be \[2, 6\].*\[2, 1, 6\]"),
        ({"scale": float("nan")}, "scale must be a finite number, got nan"),
        ({"scale": torch.tensor(0.5)}, "scale must be a finite number"),
        ({"k": torch.zeros(2, 3, 0, 4), "tokens": torch.full((2, 1), -1)}, "k must have at least one key"),
        ({"q": torch.zeros(2, 0, 4, 4), "k": torch.zeros(2, 0, 6, 4)}, "at least one head and one channel"),
        ({"q": torch.zeros(2, 3, 4, 0), "k": torch.zeros(2, 3, 6, 0)}, "at least one head and one channel"),
        ({"k": torch.zeros(2, 3, 0, 4)}, "k must have at least one key"),
        ({"q": torch.zeros(3, 4, 4)}, r"q must be \[B, H, N, D\].*\[3, 4, 4\]"),
        ({"q": torch.zeros(2, 3, 4, 4, dtype=torch.long)}, "q must be floating point"),
    ],
)
def test_misuse(change, message):
    arguments = {"q": torch.zeros(2, 3, 4, 4), "k": torch.zeros(2, 3, 6, 4), "tokens": [0]} | change
    with pytest.raises(ValueError, match=message):
        token_attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("tokens"), **arguments)


@pytest.mark.parametrize("tokens", [[4], torch.zeros(0, 1, dtype=torch.long)], ids=["list", "tensor"])
def test_no_samples_and_no_positions(tokens):
    q, k = make(0, 2, 3, 5, 4)
    assert token_attention(q, k, tokens).shape == (0, 3, 1)
    q, k = (t.requires_grad_() for t in make(2, 2, 0, 5, 4))
    result = token_attention(q, k, [4])
    assert result.shape == (2, 0, 1)
    assert all((g == 0).all() for g in torch.autograd.grad(result.sum(), (q, k)))


def test_graph_is_freed(no_leak):
    q, k = (t.requires_grad_() for t in make(1, 1, 4, 5, 3))
    no_leak(lambda: token_attention(q, k, [1]))
