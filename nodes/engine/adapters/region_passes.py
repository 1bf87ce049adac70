"""How the image tokens of a cross-attention are divided among the regions, for one pass each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class RegionPass:
    """One pass over a cross-attention: share `[B,K]` of it, in 0..1, at K of the image tokens.

    region: the expert's name, "" for what all regions leave. tokens: indices `[K]` of the image tokens (None: all).
    """

    region: str
    share: Tensor
    tokens: Tensor | None


def divided(masks: Tensor, regions: Sequence[str], names: Sequence[str], *, whole: bool) -> list[RegionPass]:
    """The passes of some regions and of the rest; those without a share anywhere are left out.

    masks: `[B,R,h,w]` of all `regions`, nowhere summing to more than 1; names: the regions that get a pass of their
    own. whole: each pass is over all image tokens, where what runs there needs to see them all.
    """
    shares = {name: masks[:, regions.index(name)].flatten(1) for name in names}
    shares[""] = (1 - torch.stack(list(shares.values())).sum(0)).clamp_min(0)
    passes = [_pass(name, share, whole or share.requires_grad) for name, share in shares.items()]
    return [region_pass for region_pass in passes if region_pass is not None]


def _pass(region: str, share: Tensor, whole: bool) -> RegionPass | None:
    """A pass over those image tokens only where some image of the batch has a share; None where there is none."""
    tokens = None if whole else (share > 0).any(0).nonzero().squeeze(1)
    if tokens is None or len(tokens) == share.shape[1]:
        return RegionPass(region, share, None)
    return RegionPass(region, share[:, tokens], tokens) if len(tokens) else None
