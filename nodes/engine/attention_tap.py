"""Attention tap: where in the image a network attends to chosen words, seen during its normal forward pass.

The queries and keys of every cross-attention are read where they are made, at the outputs of its projections, so the
network keeps whatever fast attention, processors or overrides it has, and none of them is replaced. Self-attention is
never seen. This needs networks whose cross-attention makes separate queries and keys, with no rotation after them:
U-Nets of the Stable Diffusion class.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import token_attention, token_logodds
from .errors import RegionStyleError, wrong_input
from .gates import Size, attention_share, latent_size, token_grid
from .unet_names import unet_paths

QUANTITIES = ("logodds", "share")


class AttentionTap:
    """Maps of token groups from the cross-attentions of one network.

    Usage: `with AttentionTap(predictor, [[5, 6], [9]], valid=text.valid) as tap: predictor.predict(...)`, then
    `tap.maps` (diffusers path of the attention -> `[B,G,h,w]`) or `tap.mean((h, w))`. Maps are those of the last
    forward pass and belong to its autograd graph. Where experts with masks make a cross-attention run several times,
    its map is the blend of all passes, as its output is.
    """

    def __init__(
        self,
        target: Any,
        groups: Tensor | Sequence[Sequence[int]],
        *,
        valid: Tensor | None = None,
        quantity: str = "logodds",
        layers: Collection[str] | None = None,
    ) -> None:
        """target: a NoisePredictor or the network itself; groups: token positions of each group, or bool `[G,M]` or
        `[B,G,M]`; valid: bool `[M]` or `[B,M]`, the tokens compared with (None: all, start and padding included).

        quantity: "logodds" (`kernels.token_logodds`; 0 for a network without preference) or "share" (the sum of
        `kernels.token_attention` over the group's tokens, out of the valid ones, in 0..1). layers: diffusers paths
        of cross-attentions (None: all). RegionStyleError for what the network does not have.
        """
        if quantity not in QUANTITIES:
            raise wrong_input("quantity", repr(quantity), f"one of {QUANTITIES}", "Choose one of these.")
        self.groups, self.valid, self.quantity = groups, valid, quantity
        self._target, self._layers = target, layers
        self._find()
        self.maps: dict[str, Tensor] = {}
        self._queries: dict[str, Tensor] = {}
        self._latent: Size | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> AttentionTap:
        network, attentions = self._find()
        try:
            self._handles.append(network.register_forward_pre_hook(self._start, with_kwargs=True))
            for path, attention in attentions.items():
                self._watch(path, attention)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._queries.clear()

    def mean(self, size: Size | None = None, layers: Collection[str] | None = None) -> Tensor:
        """The mean map `[B,G,h,w]` in float32 or better, each layer's resized to `size` (default: the largest grid).

        RegionStyleError when no forward pass ran inside the tap, or for layers that gave no map.
        """
        maps = self.maps if layers is None else {path: self._map(path) for path in layers}
        if not maps:
            raise RegionStyleError("attention tap: got no map, expected one per layer. Run the network inside it.")
        height, width = size or max((m.shape[-2:] for m in maps.values()), key=lambda s: s[0] * s[1])
        return torch.stack([_resized(m, (height, width)) for m in maps.values()]).mean(0)

    def _find(self) -> tuple[nn.Module, dict[str, nn.Module]]:
        """The network, which a predictor may exchange between two uses, and the chosen cross-attentions."""
        network = getattr(self._target, "network", self._target)
        return network, _chosen(cross_attentions(network), self._layers)

    def _map(self, path: str) -> Tensor:
        if path not in self.maps:
            raise wrong_input("layers", repr(path), f"one of {sorted(self.maps)}", "Name layers that gave a map.")
        return self.maps[path]

    def _watch(self, path: str, attention: Any) -> None:
        if getattr(attention, "fused_projections", False):
            remedy = "Call unfuse_qkv_projections() on the network first."
            raise wrong_input("network", f"fused projections in {path}", "separate queries and keys", remedy)
        query, key = (_last(attention, name) for name in ("q", "k"))
        self._handles.append(query.register_forward_hook(lambda module, args, q: self._queries.update({path: q})))
        self._handles.append(key.register_forward_hook(lambda module, args, k: self._collect(path, attention, k)))

    def _start(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.maps, self._queries = {}, {}
        self._latent = latent_size(args, kwargs)

    def _collect(self, path: str, attention: Any, k: Tensor) -> None:
        q = self._queries.pop(path, None)
        if q is None:
            raise RegionStyleError(
                f"attention tap: {path} made its keys before its queries, expected queries first. Something replaced "
                "this attention; remove that patch or choose other layers."
            )
        seen = self._quantity(_by_head(q, attention.heads), _by_head(k, attention.heads), attention)
        seen = seen.unflatten(-1, token_grid(self._latent, q.shape[1]))
        share = attention_share.get()
        if share is not None:
            before = self.maps.get(path, torch.zeros_like(seen))
            seen = before + seen * share.reshape(len(seen), 1, *seen.shape[-2:]).to(seen.dtype)
        self.maps[path] = seen

    def _quantity(self, q: Tensor, k: Tensor, attention: Any) -> Tensor:
        """`[B,G,N]`."""
        groups = as_groups(self.groups, k.shape[2]).to(k.device)
        valid = None if self.valid is None else self.valid.to(k.device)
        scale = getattr(attention, "scale", None)
        if self.quantity == "logodds":
            return token_logodds(q, k, groups, valid, scale=scale)
        return _group_shares(q, k, groups, valid, scale)


def cross_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Diffusers path -> module of every cross-attention of a Stable Diffusion class U-Net, in the network's order."""
    paths = unet_paths(network)
    return {path: network.get_submodule(name) for path, name in paths.items() if path.endswith(".attn2")}


def as_groups(groups: Tensor | Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Token positions as bool `[G,tokens]`; tensors pass. RegionStyleError for positions out of range."""
    if isinstance(groups, Tensor):
        return groups
    if not groups or any(not 0 <= t < tokens for group in groups for t in group) or not all(groups):
        accepts = f"one or more groups of positions in 0..{tokens - 1}"
        raise wrong_input("groups", [list(g) for g in groups], accepts, "Find them with find_phrase.")
    table = torch.zeros(len(groups), tokens, dtype=torch.bool)
    for row, group in zip(table, groups, strict=True):
        row[list(group)] = True
    return table


def _group_shares(q: Tensor, k: Tensor, groups: Tensor, valid: Tensor | None, scale: float | None) -> Tensor:
    """Sum of the valid tokens' attention in each group `[B,G,N]`, the softmax running over the valid ones."""
    rows = groups.expand(len(q), -1, -1)
    used = rows.flatten(0, 1).any(0).nonzero().squeeze(1)
    columns = token_attention(q, k, used.tolist(), support=valid, scale=scale)
    return (columns @ rows[..., used].transpose(1, 2).to(columns.dtype)).transpose(1, 2)


def _chosen(attentions: dict[str, nn.Module], layers: Collection[str] | None) -> dict[str, nn.Module]:
    if layers is not None and (unknown := sorted(set(layers) - set(attentions))):
        raise wrong_input("layers", unknown, f"some of {list(attentions)}", "Name cross-attentions of this network.")
    chosen = {path: module for path, module in attentions.items() if layers is None or path in layers}
    if not chosen:
        raise wrong_input("layers", "no cross-attention", "one or more", "Use a network that reads text.")
    return chosen


def _last(attention: Any, kind: str) -> nn.Module:
    """The module that gives the final queries or keys: the norm after the projection where there is one."""
    norm = getattr(attention, f"norm_{kind}", None)
    return getattr(attention, f"to_{kind}") if norm is None else norm


def _by_head(x: Tensor, heads: int) -> Tensor:
    """`[B,N,heads*D]` -> `[B,heads,N,D]`; a norm may have got it by head already."""
    return x if x.ndim == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _resized(maps: Tensor, size: Size) -> Tensor:
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
