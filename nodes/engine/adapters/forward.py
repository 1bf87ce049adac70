"""What gates do at a layer and at a cross-attention while the network runs; the rules are told in `stack.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input
from ..families.token_layout import TokenLayout
from ..host.context import hiding_tokens, pass_context, sharing_attention
from .active_gates import ActiveGates
from .batch_rows import ActiveRows
from .dora import Change, dora_changes, with_changes
from .isolation import joint_bias
from .products import add_updates
from .region_passes import RegionPass
from .text_arguments import attend_visible, text_arguments
from .updates import Update
from .wrapped_forward import WrappedForward


@dataclass(eq=False)
class GatedLayer:
    """A layer of the network, and the updates experts have for it.

    path: diffusers path (of one of the layers it consists of). token_kind: what the rows of its input stand for
    (`ModelFamily.token_kind`).
    """

    path: str
    module: nn.Module
    token_kind: str
    updates: list[Update]


# The updates that act in some rows of the batch, with their gates there.
ByRows = dict[ActiveRows, list[tuple[Update, Tensor]]]


class GatedForward:
    """The functions that run in place of a layer's forward, and what they must know.

    gates: those of the moment; None: all experts off. layout: the tokens of the running pass, where a mask needs them.
    """

    gates: ActiveGates | None = None
    layout: TokenLayout | None = None
    # Rows of the batch and image tokens that came into the running block (`ModelFamily.token_blocks`).
    block_tokens: tuple[int, int] | None = None
    # In a pass over a cross-attention: the expert whose region it is for, "" in the one for the rest.
    _region: str | None = None
    # During the passes over one cross-attention, input and output of its layers over the text, by id of the layer.
    _text_outputs: dict[int, tuple[Tensor, Tensor]] | None = None

    def __init__(self) -> None:
        self._lengths: dict[Any, tuple[Tensor, ...]] = {}  # of DoRA layers (`dora.py`)

    def around_layer(
        self, layer: GatedLayer, original: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any
    ) -> Tensor:
        """The output of a Linear or Conv2d with the updates of all experts that act on it."""
        y = self._own_output(layer, original, x, *args, **kw)
        gates = self.gates
        if gates is None:
            return y
        by_rows: ByRows = {}
        for update in layer.updates:
            gate = self._gate(gates, layer, update.expert, x, y) if update.expert in gates else None
            if gate is not None:
                rows = gates.active_rows(update.expert, len(x))
                by_rows.setdefault(rows, []).append((update, gate[rows.first : rows.last]))
        by_rows = {rows: active for rows, active in by_rows.items() if rows.first < rows.last}
        fresh, changes = self._is_fresh(layer, original), self._dora_changes(layer, x, y, by_rows)
        for rows, active in by_rows.items():
            plain = [(update, gate) for update, gate in active if not update.decomposed]
            if plain:
                y, fresh = add_updates(layer.module, x, y, plain, rows, gates.cached, in_place=fresh), True
        return with_changes(y, changes, in_place=fresh)

    def _dora_changes(self, layer: GatedLayer, x: Tensor, y: Tensor, by_rows: ByRows) -> list[Change]:
        """What the DoRA layers among the updates add to y, the output before any update."""
        changes = []
        for rows, active in by_rows.items():
            decomposed = [(update, gate) for update, gate in active if update.decomposed]
            changes += dora_changes(layer.module, x, y, decomposed, rows, self._length)
        return changes

    def _length(self, key: Any, make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Lengths of weights, made once until `forget_lengths`, whatever the gates."""
        if key not in self._lengths:
            self._lengths[key] = make()
        return self._lengths[key]

    def forget_lengths(self) -> None:
        """The network's weights may change after this, or are those of another run."""
        self._lengths.clear()

    def _is_fresh(self, layer: GatedLayer, original: Callable[..., Tensor]) -> bool:
        """Whether the layer's output is nobody else's, and no backward pass needs it: it may be changed in place."""
        own = getattr(original, "__self__", None) is layer.module
        return own and self._text_outputs is None and not torch.is_grad_enabled()

    def _own_output(
        self, layer: GatedLayer, original: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any
    ) -> Tensor:
        """The layer's own output; keys and values of one text are computed once for all passes.

        Not where something else wraps the layer (another stack, another pack): its output may differ by pass.
        """
        own = getattr(original, "__self__", None) is layer.module
        if self._text_outputs is None or layer.token_kind != "words" or not own:
            return original(x, *args, **kw)
        text, y = self._text_outputs.get(id(layer), (None, None))
        if y is None or text is not x:
            y = original(x, *args, **kw)
            self._text_outputs[id(layer)] = (x, y)
        return y

    def _gate(self, gates: ActiveGates, layer: GatedLayer, name: str, x: Tensor, y: Tensor) -> Tensor | None:
        """An expert's gate at a layer: `[B]`, one per token `[B,N]`, one per pixel of the output `[B,h,w]`, or off."""
        batch, device = len(x), x.device
        if name not in gates.regions:
            return gates.per_image(name, batch, device)
        if self._region is not None:
            return x.new_full((batch,), gates.strength(name)) if self._region == name else None
        if layer.token_kind == "words":
            raise RegionStyleError(
                f"gate of {name!r}: got a mask, but something replaced the cross-attention around {layer.path}, where "
                "it is blended; expected the network's own. Use a number as gate, or remove that patch."
            )
        if x.ndim == 4:
            return gates.on_grid(name, (y.shape[-2], y.shape[-1]), batch, device)
        if layer.token_kind == "none" or x.ndim == 2:
            return gates.pooled(name, self._layout().grids[0], batch, device)
        if ".transformer_blocks." in layer.path:
            self._check_tokens(x)
        return self._gate_of_tokens(gates, layer.token_kind, name, x)

    def enter(self, x: Tensor) -> None:
        """A block of the network begins."""
        self.block_tokens = len(x), x.shape[1]

    def _check_tokens(self, x: Tensor) -> None:
        """RegionStyleError where a layer inside a block gets other tokens than the block."""
        if self.block_tokens is not None and (len(x), x.shape[1]) != self.block_tokens:
            got, wanted = f"{len(x)}x{x.shape[1]}", "{}x{}".format(*self.block_tokens)
            raise RegionStyleError(
                f"image tokens: got {got} (batch x tokens) inside a block of {wanted}, expected the same. A patch that "
                "tiles or merges tokens (HyperTile, ToMe) cannot be combined with masks: switch it off, or use numbers "
                "as gates."
            )

    def _gate_of_tokens(self, gates: ActiveGates, token_kind: str, name: str, x: Tensor) -> Tensor:
        """The gate `[B,N]` for x `[B,N,I]`."""
        batch, tokens, device = len(x), x.shape[1], x.device
        if token_kind == "text":
            return gates.of_text_tokens(name, tokens, batch, device)
        if token_kind == "image":
            return gates.of_image_tokens(name, self._layout().image(tokens), batch, device)
        text, grids = self._layout().joint(tokens)
        of_text = gates.of_text_tokens(name, text, batch, device)
        return torch.cat([of_text, gates.of_image_tokens(name, grids, batch, device)], 1)

    def _layout(self) -> TokenLayout:
        if self.layout is None:
            raise RegionStyleError(
                "gates: got a mask while a layer ran outside of its network; expected a pass of the whole network, "
                "which tells the size of the latent. Use numbers as gates there."
            )
        return self.layout

    def around_attention(
        self, names: list[str], original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """One attention per masked expert and one for the rest, blended by the masks at this layer's grid."""
        gates = self.gates
        regions = [name for name in gates.regions if name in names or gates.isolated] if gates is not None else []
        if gates is None or not regions:
            return original(x, *args, **kwargs)
        self._check_tokens(x)
        (grid,) = self._layout().image(x.shape[1])
        before, self._text_outputs = self._text_outputs, {}
        # Stacks inside each other: both divide all image tokens among their own regions.
        whole = isinstance(original, WrappedForward) or pass_context().attention_share is not None
        passes = gates.region_passes(regions, grid, len(x), x.device, whole=whole)
        try:
            return self._blended(gates, passes, original, x, args, kwargs)
        finally:
            self._text_outputs = before

    def _blended(
        self,
        gates: ActiveGates,
        passes: list[RegionPass],
        original: Callable[..., Tensor],
        x: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """All passes, each over its own image tokens, times their shares. Queries do not see each other."""
        total: Tensor | None = None
        for region_pass in passes:
            tokens, share = region_pass.tokens, region_pass.share
            with self._only(region_pass.region, share):
                y = self._run_pass(gates, region_pass, original, x, args, kwargs)
            y = share[..., None].to(y.dtype) * y
            if tokens is not None:
                y = y.new_zeros(*x.shape[:2], y.shape[-1]).index_copy(1, tokens, y)
            total = y if total is None else total + y
        assert total is not None  # shares sum to 1, so some pass has one
        return total

    def _run_pass(
        self,
        gates: ActiveGates,
        region_pass: RegionPass,
        original: Callable[..., Tensor],
        x: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """One pass; image tokens of an isolated region attend only to the text tokens that it may see."""
        x = x if region_pass.tokens is None else x[:, region_pass.tokens]
        if not gates.isolated:
            return original(x, *args, **kwargs)
        text, context = text_arguments(original, x, args, kwargs), pass_context()
        positive = context.positive_rows(len(x))
        visible = gates.visible_tokens(region_pass.region, text.tokens) if bool(positive.any()) else None
        if visible is None:
            return original(x, *args, **kwargs)
        if context.observed:
            original(x, *args, **kwargs)  # for those who observe: they look at all tokens, by their place in the prompt
        with hiding_tokens():
            return attend_visible(visible, positive, original, x, text)

    def around_joint_attention(
        self, what: None, original: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A joint attention of diffusers that takes a mask, with the one that keeps isolated prompts apart."""
        gates, layout = self.gates, self.layout
        if gates is None or layout is None or not gates.isolated:
            return original(hidden_states, *args, **kwargs)
        if len(args) > 1 or kwargs.get("attention_mask") is not None:
            raise wrong_input("joint attention", "an attention mask", "none", "Switch the isolation of prompts off.")
        bias = joint_bias(gates, layout, len(hidden_states), hidden_states.device, hidden_states.dtype)
        return original(hidden_states, *args, **{**kwargs, "attention_mask": bias[:, None]})

    @contextmanager
    def _only(self, region: str, share: Tensor) -> Iterator[None]:
        """One pass: only this region's expert acts, beside those without a mask; observers see the share."""
        before, self._region = self._region, region
        try:
            with sharing_attention(share):
                yield
        finally:
            self._region = before
