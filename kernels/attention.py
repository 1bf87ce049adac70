"""Attention of chosen text tokens over image positions (RegionRoute, arXiv:2602.19254)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import check_attention, check_bool, check_shapes, full_precision, is_integer, promote, require
from ._logsumexp import key_logsumexp


def token_attention_reference(
    q: Tensor,
    k: Tensor,
    tokens: Sequence[int] | Tensor,
    *,
    support: Tensor | None = None,
    scale: float | None = None,
    reduce_heads: bool = True,
) -> Tensor:
    """`token_attention` by its definition: the softmax of every row, then its columns. For reading and testing."""
    q, k, dtype = *promote(q, k), q.dtype
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if support is not None:
        logits = logits.masked_fill(~support.expand(k.shape[0], k.shape[2])[:, None, None], -torch.inf)
    attention = logits.softmax(-1)
    columns = []
    for sample, row in enumerate([tokens] * len(q) if not isinstance(tokens, Tensor) else tokens.tolist()):
        zero = torch.zeros_like(attention[sample, ..., 0])
        columns.append(torch.stack([attention[sample, ..., t] if t >= 0 else zero for t in row], -1))
    result = torch.stack(columns)
    return (result.mean(1) if reduce_heads else result).to(dtype)


@full_precision
def token_attention(
    q: Tensor,
    k: Tensor,
    tokens: Sequence[int] | Tensor,
    *,
    support: Tensor | None = None,
    scale: float | None = None,
    reduce_heads: bool = True,
) -> Tensor:
    """Columns `tokens` of softmax(scale * q k^T), the softmax running over the keys in `support`.

    q `[B,H,N,D]`, k `[B,H,M,D]`; tokens: T ints in 0..M-1, or an integer tensor `[B,T]` padded with -1, whose padded
    columns are 0 and get no gradient; support: None (all keys), bool `[M]` or `[B,M]`; scale: default D^-0.5.
    Returns `[B,N,T]` (mean over heads), or `[B,H,N,T]` with `reduce_heads=False`, in q's dtype, values in 0..1.
    A token outside the support has the value 0. Differentiable (once) in q and k. The map `[N,M]` is never kept.

    With the text range as support this is the text-restricted share; with the tokens themselves, the quantity of
    RegionRoute's published code.

    Checking `tokens` or `support` waits for the device when they lie on a GPU; a list and CPU tensors do not.

    Raises ValueError on shapes that disagree, no head or channel, no tokens, a token outside 0..M-1, an empty support,
    or a scale that is not finite.
    """
    sizes, scale = check_attention(q, k, scale)
    _check_tokens(tokens, sizes["B"], sizes["M"])
    keep = None if support is None else _check_support(support, sizes["B"], sizes["M"])
    queries, columns = promote(q, _take(k, tokens))
    logits = queries @ columns.transpose(-1, -2) * scale
    used = _used(tokens, keep, q.device)
    if used is not None:
        # Before the exponential: a key outside the support may lie far above it and would overflow to inf * 0.
        logits = logits.masked_fill(~used[:, None, None], -torch.inf)
    lse = key_logsumexp(q, k, None if keep is None else keep[:, None], scale)
    result = torch.exp(logits - lse.transpose(-1, -2))
    return (result.mean(1) if reduce_heads else result).to(q.dtype)


def _check_tokens(tokens: Sequence[int] | Tensor, b: int, m: int) -> None:
    lowest = -1 if isinstance(tokens, Tensor) else 0
    low, high = _tensor_range(tokens, b) if isinstance(tokens, Tensor) else _list_range(tokens)
    require(lowest <= low and high < m, f"tokens must lie in {lowest}..{m - 1} for k with M={m}, got {low}..{high}")


def _tensor_range(tokens: Tensor, b: int) -> tuple[int, int]:
    """The smallest and the largest entry of a tensor `[B,T]`."""
    check_shapes(tokens=(tokens, f"{b} T"))
    whole = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool)
    require(whole, f"tokens must be ints, got {tokens.dtype}")
    require(tokens.shape[1] > 0, f"tokens is empty: name at least one, got {list(tokens.shape)}")
    return (int(tokens.min()), int(tokens.max())) if b else (-1, -1)


def _list_range(tokens: Sequence[int]) -> tuple[int, int]:
    """The smallest and the largest entry of a list."""
    require(isinstance(tokens, Sequence), f"tokens must be ints or a tensor [B, T], got {type(tokens).__name__}")
    require(all(map(is_integer, tokens)), f"tokens must be ints, got {tokens!r}")
    require(len(tokens) > 0, "tokens is empty: name at least one")
    return min(tokens), max(tokens)


def _check_support(support: Tensor, b: int, m: int) -> Tensor:
    """The support as bool `[B,M]`."""
    check_bool(support=support)
    check_shapes(support=(support, f"{m}" if support.ndim == 1 else f"{b} {m}"))
    require(bool(support.any(-1).all()), f"support {list(support.shape)} is empty: it must hold at least one key")
    return support.expand(b, m)


def _take(k: Tensor, tokens: Sequence[int] | Tensor) -> Tensor:
    """Keys `[B,H,T,D]` of the tokens; the padding reads key 0 and is masked later."""
    if not isinstance(tokens, Tensor):
        # Plain views: an index list would have to be copied to the device first.
        return torch.stack([k[:, :, t] for t in tokens], 2)
    index = tokens.to(k.device, torch.long).clamp_min(0)[:, None, :, None]
    return k.gather(2, index.expand(-1, k.shape[1], -1, k.shape[3]))


def _used(tokens: Sequence[int] | Tensor, keep: Tensor | None, device: torch.device) -> Tensor | None:
    """bool `[B,T]`: columns that are no padding and inside the support. None: all of them."""
    if not isinstance(tokens, Tensor):
        return None if keep is None else torch.stack([keep[:, t] for t in tokens], 1).to(device)
    tokens = tokens.to(device, torch.long)
    real = tokens >= 0
    return real if keep is None else real & keep.to(device).gather(1, tokens.clamp_min(0))
