"""Log-odds of token groups (a well-posed form of RegionRoute's attention, arXiv:2602.19254)."""

import torch
from torch import Tensor

from ._checks import check_attention, check_bool, check_shapes, full_precision, promote, require
from ._logsumexp import key_logsumexp


def token_logodds_reference(
    q: Tensor,
    k: Tensor,
    groups: Tensor,
    valid: Tensor | None = None,
    *,
    scale: float | None = None,
    reduce_heads: bool = True,
) -> Tensor:
    """`token_logodds` by its definition, sample by sample and group by group. For reading and testing."""
    q, k, dtype = *promote(q, k), q.dtype
    (b, _, _, d), m = q.shape, k.shape[2]
    valid = torch.ones(m, dtype=torch.bool, device=q.device) if valid is None else valid
    results = []
    for sample, (group_rows, ok) in enumerate(zip(groups.expand(b, -1, -1), valid.expand(b, -1), strict=True)):
        logits = q[sample] @ k[sample].transpose(-1, -2) * (d**-0.5 if scale is None else scale)
        for group in group_rows:
            inside, rest = logits[..., group & ok], logits[..., ok & ~group]
            odds = inside.logsumexp(-1) - rest.logsumexp(-1)
            results.append(odds - torch.log(torch.tensor(inside.shape[-1] / rest.shape[-1], dtype=q.dtype)))
    result = torch.stack(results).unflatten(0, (b, -1)).transpose(1, 2)
    return (result.mean(1) if reduce_heads else result).to(dtype)


@full_precision
def token_logodds(
    q: Tensor,
    k: Tensor,
    groups: Tensor,
    valid: Tensor | None = None,
    *,
    scale: float | None = None,
    reduce_heads: bool = True,
) -> Tensor:
    """How much more each image position attends to a token group than to the other valid tokens.

    q `[B,H,N,D]`, k `[B,H,M,D]`, groups bool `[G,M]` or `[B,G,M]`, valid bool `[M]` or `[B,M]` (None: all keys).
    Per group g, with the logits s = scale * q k^T (scale: default D^-0.5) and rest = valid and not in g,

        logsumexp_g(s) - logsumexp_rest(s) - ln(size of g / size of rest)

    so a network that does not prefer any token gives 0. Keys of a group that are not valid are ignored, also in its
    size; groups may overlap. Returns `[B,G,N]` (mean over heads), or `[B,H,G,N]` with `reduce_heads=False`, in q's
    dtype. Differentiable (once) in q and k; the map `[N,M]` is never kept.

    Raises ValueError on shapes that disagree, no head or channel, a group without a valid key or without a rest, or a
    scale that is not finite.
    """
    sizes, scale = check_attention(q, k, scale)
    inside, rest = _check_groups(groups, valid, sizes["B"], sizes["M"])
    lse = key_logsumexp(q, k, torch.cat([inside, rest], 1), scale)
    over, under = lse.chunk(2, 2)
    # The ratio in double precision costs nothing ([B,G] numbers) and keeps float64 exact.
    offset = torch.log(inside.sum(-1, dtype=lse.dtype) / rest.sum(-1, dtype=lse.dtype)).to(q.device)
    result = over - under - offset[:, None, :, None]
    return (result.mean(1) if reduce_heads else result).to(q.dtype)


def _check_groups(groups: Tensor, valid: Tensor | None, b: int, m: int) -> tuple[Tensor, Tensor]:
    """Each group's valid keys and the valid keys outside it, both bool `[B,G,M]`."""
    check_bool(groups=groups)
    sizes = check_shapes(groups=(groups, f"G {m}" if groups.ndim == 2 else f"{b} G {m}"))
    require(sizes["G"] > 0, f"groups {list(groups.shape)} is empty: give at least one group")
    if valid is None:
        valid = groups.new_ones(m)
    check_bool(valid=valid)
    check_shapes(valid=(valid, f"{m}" if valid.ndim == 1 else f"{b} {m}"))
    ok = valid.to(groups.device).expand(b, m)[:, None]
    inside, rest = groups & ok, ok & ~groups
    # One test for both, because on a GPU each test waits for the device.
    filled = torch.stack([inside.any(-1), rest.any(-1)])
    if not bool(filled.all()):
        side, sample, group = (~filled).nonzero()[0].tolist()
        problem = "has no key left in its rest" if side else "is empty: it has no valid key"
        raise ValueError(
            f"groups {list(groups.shape)}: group {group} of sample {sample} {problem} (valid {list(valid.shape)})"
        )
    return inside, rest
