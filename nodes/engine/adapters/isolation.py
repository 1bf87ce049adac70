"""Prompts kept apart where text and image attend to each other (FLUX, SD3): a bias.

Each place of the picture has a share in every region, and each region reads some tokens of the prompt (`reads` of the
gates). With the shares w and r_s(j) = 1 where region s reads token j, the logits of an attention get

- place p, token j: log sum_s w_s(p) r_s(j): nothing where a place is whole in regions that read the token, minus
  infinity where none of its regions does; and the same from token j to place p;
- token i, token j: minus infinity unless every region that reads i reads j too, or what j says would get out of j's
  regions through i;
- place, place: nothing.

How a network gets the bias: ComfyUI's by an `optimized_attention_override`, diffusers' FLUX as attention mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..attention.joint import OVERRIDE
from ..errors import wrong_input
from ..families.network_layers import TokenLayout
from ..host.context import words_hidden
from .gates import ActiveGates, positive_rows

SUPPORTED = "SD1.5, SD2 and SDXL of both hosts, FLUX.1 of both hosts, SD3 of ComfyUI"


def joint_bias(gates: ActiveGates, call: TokenLayout, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`[B,L+N,L+N]` for L text tokens, then N image tokens; zeros for prompts other than the positive one."""
    positive = positive_rows(batch)
    key = ("joint", call, batch, device, dtype, tuple(positive.tolist()), torch.is_inference_mode_enabled())
    return gates.made_of_masks(
        key, lambda: _bias(gates, call, batch, device, dtype) * positive.to(device)[:, None, None]
    )


def _bias(gates: ActiveGates, call: TokenLayout, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    reads = _readers(gates, call.text).to(device)
    shares = [_shares(gates, size, batch, device) for size in call.grids]
    of_text = torch.einsum("bsn,sl->bnl", torch.cat(shares, 2), reads.float()).clamp_max(1)
    leaks = (reads[:, :, None] & ~reads[:, None, :]).any(0)
    bias = of_text.new_zeros(batch, *[call.text + of_text.shape[1]] * 2)
    bias[:, : call.text, : call.text] = (~leaks).float().log()
    bias[:, call.text :, : call.text] = of_text.log()
    bias[:, : call.text, call.text :] = of_text.log().transpose(1, 2)
    # Not infinity: attention functions that work in chunks make NaN of a chunk with nothing else in it.
    return bias.clamp_min(torch.finfo(dtype).min / 2).to(dtype)


def _readers(gates: ActiveGates, tokens: int) -> Tensor:
    """Which token each region and, last, the rest reads, bool `[R+1,tokens]`."""
    rows = torch.ones(len(gates.regions) + 1, tokens, dtype=torch.bool)
    for row, region in zip(rows, (*gates.regions, ""), strict=True):
        readable = gates.reads(region, tokens)
        if readable is not None:
            row.zero_()[readable] = True
    return rows


def _shares(gates: ActiveGates, size: tuple[int, int], batch: int, device: torch.device) -> Tensor:
    """Shares of the regions and, last, the rest at each place of a grid, `[B,R+1,N]`."""
    masks = gates.masks(size, batch, device).flatten(2)
    return torch.cat([masks, (1 - masks.sum(1, keepdim=True)).clamp_min(0)], 1)


def with_override(kwargs: Mapping[str, Any], bias: Callable[[Tensor], Tensor], tokens: int) -> dict[str, Any]:
    """The arguments of ComfyUI's network with an override that adds the bias to every attention over all tokens.

    An override that is there is called with it. RegionStyleError where the network is not called as ComfyUI calls it.
    """
    options = kwargs.get("transformer_options")
    if options is None:
        raise _unsupported("a network called without transformer_options")
    previous = options.get(OVERRIDE)

    def override(func: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, *args: Any, **given: Any) -> Any:
        attend = func if previous is None else (lambda *a, **kw: previous(func, *a, **kw))
        length = 2 if given.get("skip_reshape") else 1
        if q.shape[length] != tokens or k.shape[length] != tokens:
            return attend(q, k, v, *args, **given)
        heads, mask, *rest = (*args, *[None] * (2 - len(args))) if args else (given.pop("heads"), None)
        mask = given.pop("mask", None) if mask is None else mask
        if mask is not None:
            raise _unsupported("an attention mask of the network's own or of another patch")
        with words_hidden():
            return attend(q, k, v, heads, bias(q), *rest, **given)

    return {**kwargs, "transformer_options": {**options, OVERRIDE: override}}


def check_isolable(supported: bool, family: str) -> None:
    """RegionStyleError for a network whose attention cannot be given a bias."""
    if not supported:
        raise _unsupported(family)


def _unsupported(got: str) -> Exception:
    return wrong_input("isolation of prompts", got, SUPPORTED, "Switch the isolation off, or use one of these.")
