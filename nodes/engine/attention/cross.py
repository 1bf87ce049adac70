"""Queries of a network's image tokens and keys of its text tokens, of every attention over text, in any family.

Three kinds of networks, each with its own way to see final queries and keys without replacing the network's attention:

- U-Nets with cross-attention, on both hosts (here): hooks on the outputs of the projections `to_q` and `to_k`;
- diffusers transformers that attend over text and image in one sequence (`joint.py`): hooks on what normalises queries
  and keys, and the rotary embedding that the attention was called with, applied here as well;
- ComfyUI's transformers of that kind (`joint.py`): an `optimized_attention_override` in transformer_options for the
  call, which sees queries and keys after normalisation and rotation, and calls an override that another pack had set.

In a joint sequence only the queries of image tokens and the keys of text tokens are handed on. Which attentions a
network has is said by its family (`ModelFamily.joint_blocks`, `ModelFamily.cross_attentions`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from ..families.base import ModelFamily
from ..families.registry import family_of
from ..host.context import pass_context
from .hooks import (
    AttentionLayers,
    Collect,
    Hooks,
    Pass,
    by_head,
    final_module,
    on_key,
    store_query,
    take_query,
    unfused,
)
from .joint import ComfyJointAttentions, JointAttentions


def attention_layers(network: nn.Module) -> AttentionLayers:
    """The text attentions of a network of either host. RegionStyleError for networks of no known family."""
    family = family_of(network)
    if blocks := family.joint_blocks(network):
        kind = JointAttentions if family.is_diffusers(network) else ComfyJointAttentions
        return kind(network, family, blocks)
    return CrossAttentions(network, family)


def cross_attentions(network: nn.Module, family: ModelFamily | None = None) -> dict[str, nn.Module]:
    """Diffusers path -> module of every cross-attention of a network, in its order; family: its own, if known."""
    paths = (family or family_of(network)).cross_attentions(network)
    return {path: network.get_submodule(name) for path, name in paths.items()}


class CrossAttentions(AttentionLayers):
    """Networks with cross-attention: separate queries and keys, no rotation after the projections."""

    def __init__(self, network: nn.Module, family: ModelFamily) -> None:
        super().__init__(network, family)
        self._modules = cross_attentions(network, family)
        self.paths = list(self._modules)

    def watch(self, paths: Collection[str], start: Callable[[], None], collect: Collect) -> list[Any]:
        """See `AttentionLayers.watch`."""
        now = Pass()

        def begin(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            start()
            now.layout = self.token_layout(args, kwargs)
            now.queries.clear()

        def keys(path: str, attention: Any, k: Tensor) -> None:
            q = take_query(now.queries, path)
            if pass_context().tokens_hidden:
                return
            heads, scale = attention.heads, getattr(attention, "scale", None)
            (grid,) = now.layout.image(q.shape[1])
            collect(path, by_head(q, heads), by_head(k, heads), grid, scale)

        with Hooks() as hooks:
            hooks.append(self.network.register_forward_pre_hook(begin, with_kwargs=True))
            for path in paths:
                attention = unfused(path, self._modules[path])
                query, key = final_module(attention, "to_q", "norm_q"), final_module(attention, "to_k", "norm_k")
                hooks.append(query.register_forward_hook(store_query(now.queries, path)))
                hooks.append(key.register_forward_hook(on_key(keys, path, attention)))
        return hooks
