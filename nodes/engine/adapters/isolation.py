"""Prompts kept apart where text and image attend to each other (FLUX, SD3): a bias.

Each image token has a share in every region, and each region sees some text tokens of the prompt (`visible_tokens` of
the gates). With the shares w and v_s(j) = 1 where region s sees text token j, the logits of an attention get

- image token p, text token j: log sum_s w_s(p) v_s(j): nothing where p is whole in regions that see j, minus infinity
  where none of its regions does; and the same from text token j to image token p;
- text token i, text token j: minus infinity unless every region that sees i sees j too, or what j says would get out
  of j's regions through i;
- image token, image token: nothing.

How a network gets the bias: ComfyUI's by an `optimized_attention_override`, diffusers' FLUX as attention mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..attention.joint import OVERRIDE
from ..errors import wrong_input
from ..families.support import supported_isolation
from ..families.token_layout import TokenLayout
from ..host.context import hiding_tokens, pass_context
from .active_gates import ActiveGates


def joint_bias(gates: ActiveGates, layout: TokenLayout, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """`[B,L+N,L+N]` for L text tokens, then N image tokens; zeros for prompts other than the positive one."""
    positive = pass_context().positive_rows(batch)
    key = ("joint", layout, batch, device, dtype, tuple(positive.tolist()), torch.is_inference_mode_enabled())
    return gates.cached_from_masks(
        key, lambda: _bias(gates, layout, batch, device, dtype) * positive.to(device)[:, None, None]
    )


def _bias(gates: ActiveGates, layout: TokenLayout, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    visible, text = _visible(gates, layout.text).to(device), layout.text
    shares = [_shares(gates, size, batch, device) for size in layout.grids]
    image_to_text = torch.einsum("bsn,sl->bnl", torch.cat(shares, 2), visible.float()).clamp_max(1)
    leaks = (visible[:, :, None] & ~visible[:, None, :]).any(0)
    bias = image_to_text.new_zeros(batch, *[text + image_to_text.shape[1]] * 2)
    bias[:, :text, :text] = (~leaks).float().log()
    bias[:, text:, :text] = image_to_text.log()
    bias[:, :text, text:] = image_to_text.log().transpose(1, 2)
    # Not infinity: attention functions that work in chunks make NaN of a chunk with nothing else in it.
    return bias.clamp_min(torch.finfo(dtype).min / 2).to(dtype)


def _visible(gates: ActiveGates, tokens: int) -> Tensor:
    """Which text tokens each region and, last, the rest sees, bool `[R+1,tokens]`."""
    rows = torch.ones(len(gates.regions) + 1, tokens, dtype=torch.bool)
    for row, region in zip(rows, (*gates.regions, ""), strict=True):
        visible = gates.visible_tokens(region, tokens)
        if visible is not None:
            row.zero_()[visible] = True
    return rows


def _shares(gates: ActiveGates, size: tuple[int, int], batch: int, device: torch.device) -> Tensor:
    """Shares of the regions and, last, the rest at each image token of a grid, `[B,R+1,N]`."""
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

    def override(func: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any) -> Any:
        attend = func if previous is None else (lambda *a, **kw: previous(func, *a, **kw))
        length = 2 if named.get("skip_reshape") else 1
        if q.shape[length] != tokens or k.shape[length] != tokens:
            return attend(q, k, v, *args, **named)
        heads, mask, *rest = (*args, *[None] * (2 - len(args))) if args else (named.pop("heads"), None)
        mask = named.pop("mask", None) if mask is None else mask
        if mask is not None:
            raise _unsupported("an attention mask of the network's own or of another patch")
        with hiding_tokens():
            return attend(q, k, v, heads, bias(q), *rest, **named)

    return {**kwargs, "transformer_options": {**options, OVERRIDE: override}}


def check_isolable(supported: bool, network: str) -> None:
    """RegionStyleError for a network whose attention cannot be given a bias."""
    if not supported:
        raise _unsupported(network)


def _unsupported(got: str) -> Exception:
    return wrong_input(
        "isolation of prompts", got, supported_isolation(), "Switch the isolation off, or use one of these."
    )
