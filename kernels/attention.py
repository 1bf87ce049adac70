"""Attention of chosen text tokens over image positions (specification: RegionRoute 4.1 and 4.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._checks import check_bool, check_float, check_shapes, full_precision, promote, require
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
    RegionRoute's published code (specification 4.1).

    Checking `tokens` or `support` waits for the device when they lie on a GPU; a list and CPU tensors do not.

    Raises ValueError on shapes that disagree, no tokens, a token outside 0..M-1, or an empty support.
    """
    sizes = check_shapes(q=(q, "B H N D"), k=(k, "B H M D"))
    check_float(q=q, k=k)
    _check_tokens(tokens, sizes["B"], sizes["M"])
    keep = None if support is None else _check_support(support, sizes["B"], sizes["M"])
    scale = sizes["D"] ** -0.5 if scale is None else scale
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
    if isinstance(tokens, Tensor):
        check_shapes(tokens=(tokens, f"{b} T"))
        require(not tokens.is_floating_point() and tokens.dtype != torch.bool, f"tokens must be ints: {tokens.dtype}")
    require((tokens.numel() if isinstance(tokens, Tensor) else len(tokens)) > 0, "tokens is empty: name at least one")
    lowest = -1 if isinstance(tokens, Tensor) else 0
    found = tokens.aminmax() if isinstance(tokens, Tensor) else (min(tokens), max(tokens))
    low, high = (int(value) for value in found)
    require(lowest <= low and high < m, f"tokens must lie in {lowest}..{m - 1} for k with M={m}, got {low}..{high}")


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
