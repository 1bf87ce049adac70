"""What gates do at a layer and at a cross-attention while the network runs; the rules are told in `adapters.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapter_families import Call
from .adapter_layers import Update, conv_update, linear_update
from .errors import RegionStyleError
from .gates import ActiveGates, attention_share


@dataclass(eq=False)
class GatedLayer:
    """A layer of the network, what its rows stand for (`adapter_families.py`), and the updates experts have for it.

    path: diffusers path (of one of its parts).
    """

    path: str
    module: nn.Module
    rows: str
    updates: list[Update]


class GatedForward:
    """The functions that run in place of a layer's forward, and what they must know.

    gates: those of the moment; None: all experts off. call: the tokens of the running pass, where a mask needs them.
    """

    gates: ActiveGates | None = None
    call: Call | None = None
    # In a pass over a cross-attention: the expert whose region it is for, "" in the one for the rest.
    _region: str | None = None

    def around_layer(
        self, layer: GatedLayer, original: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any
    ) -> Tensor:
        y = original(x, *args, **kw)
        gates = self.gates
        if gates is None:
            return y
        found = [(u, self._gate(gates, layer, u.expert, x, y)) for u in layer.updates if u.expert in gates]
        active = [(update, gate) for update, gate in found if gate is not None]
        if not active:
            return y
        if isinstance(layer.module, nn.Conv2d):
            return y + conv_update(layer.module, x, active).to(y.dtype)
        return y + linear_update(x, active, y.shape[-1]).to(y.dtype)

    def _gate(self, gates: ActiveGates, layer: GatedLayer, name: str, x: Tensor, y: Tensor) -> Tensor | None:
        """An expert's gate at a layer: `[B]`, one per token `[B,N]`, one per pixel of the output `[B,h,w]`, or off."""
        batch, device = len(x), x.device
        if name not in gates.regions:
            return gates.per_image(name, batch, device)
        if self._region is not None:
            return x.new_full((batch,), gates.strength(name)) if self._region == name else None
        if layer.rows == "words":
            raise RegionStyleError(
                f"gate of {name!r}: got a mask, but something replaced the cross-attention around {layer.path}, where "
                "it is blended; expected the network's own. Use a number as gate, or remove that patch."
            )
        if x.ndim == 4:
            return gates.per_place(name, (y.shape[-2], y.shape[-1]), batch, device)
        if layer.rows == "none" or x.ndim == 2:
            return gates.averaged(name, self._seen().grids[0], batch, device)
        return self._gate_of_tokens(gates, layer.rows, name, x)

    def _gate_of_tokens(self, gates: ActiveGates, rows: str, name: str, x: Tensor) -> Tensor:
        """The gate `[B,N]` for x `[B,N,I]`."""
        batch, tokens, device = len(x), x.shape[1], x.device
        if rows == "text":
            return gates.over_text(name, tokens, batch, device)
        if rows == "image":
            return gates.over_image(name, self._seen().image(tokens), batch, device)
        text, grids = self._seen().joint(tokens)
        of_text = gates.over_text(name, text, batch, device)
        return torch.cat([of_text, gates.over_image(name, grids, batch, device)], 1)

    def _seen(self) -> Call:
        if self.call is None:
            raise RegionStyleError(
                "gates: got a mask while a layer ran outside of its network; expected a pass of the whole network, "
                "which tells the size of the latent. Use numbers as gates there."
            )
        return self.call

    def around_attention(
        self, names: list[str], original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """One attention per masked expert and one for the rest, blended by the masks at this layer's grid."""
        gates = self.gates
        regions = [name for name in gates.regions if name in names] if gates is not None else []
        if gates is None or not regions:
            return original(x, *args, **kwargs)
        (grid,) = self._seen().image(x.shape[1])
        masks = gates.masks(grid, len(x), x.device).flatten(2)
        shares = {name: masks[:, gates.regions.index(name)] for name in regions}
        shares[""] = 1 - torch.stack(list(shares.values())).sum(0)
        passes = []
        for region, share in shares.items():
            with self._only(region, share):
                y = original(x, *args, **kwargs)
            passes.append(share[..., None].to(y.dtype) * y)
        return torch.stack(passes).sum(0)

    @contextmanager
    def _only(self, region: str, share: Tensor) -> Iterator[None]:
        """One pass: only this region's expert acts, beside those without a mask; observers see the share."""
        outer, before = attention_share.get(), self._region
        token = attention_share.set(share if outer is None else outer * share)
        self._region = region
        try:
            yield
        finally:
            self._region = before
            attention_share.reset(token)
