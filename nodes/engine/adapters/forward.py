"""What gates do at a layer and at a cross-attention while the network runs; the rules are told in `adapters.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input
from ..families.network_layers import TokenLayout
from ..host.context import whole_passes, words_hidden
from .gates import Acting, ActiveGates, RegionPart, attention_share, positive_rows
from .isolation import joint_bias
from .updates import Update, add_updates
from .wrapped_forward import WrappedForward


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
    call: TokenLayout | None = None
    # Rows of the batch and image tokens that came into the running block (`Family.blocks`).
    entered: tuple[int, int] | None = None
    # In a pass over a cross-attention: the expert whose region it is for, "" in the one for the rest.
    _region: str | None = None
    # What layers over the text gave to the same text before, during the passes over one cross-attention.
    _kept: dict[int, tuple[Tensor, Tensor]] | None = None

    def around_layer(
        self, layer: GatedLayer, original: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any
    ) -> Tensor:
        y = self._kept_or(layer, original, x, *args, **kw)
        gates = self.gates
        if gates is None:
            return y
        alike: dict[Acting, list[tuple[Update, Tensor]]] = {}
        for update in layer.updates:
            gate = self._gate(gates, layer, update.expert, x, y) if update.expert in gates else None
            if gate is not None:
                rows = gates.acting(update.expert, len(x))
                alike.setdefault(rows, []).append((update, gate[rows.first : rows.last]))
        fresh = self._is_fresh(layer, original)
        for rows, active in alike.items():
            if rows.first < rows.last:
                y, fresh = add_updates(layer.module, x, y, active, rows, gates.remembered, in_place=fresh), True
        return y

    def _is_fresh(self, layer: GatedLayer, original: Callable[..., Tensor]) -> bool:
        """Whether the layer's output is nobody else's, and no backward pass needs it: it may be changed in place."""
        own = getattr(original, "__self__", None) is layer.module
        return own and self._kept is None and not torch.is_grad_enabled()

    def _kept_or(self, layer: GatedLayer, original: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any) -> Tensor:
        """The layer's own output; keys and values of one text are computed once for all passes.

        Not where something else wraps the layer (another stack, another pack): its output may differ by pass.
        """
        own = getattr(original, "__self__", None) is layer.module
        if self._kept is None or layer.rows != "words" or not own:
            return original(x, *args, **kw)
        seen, y = self._kept.get(id(layer), (None, None))
        if y is None or seen is not x:
            y = original(x, *args, **kw)
            self._kept[id(layer)] = (x, y)
        return y

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
        if ".transformer_blocks." in layer.path:
            self._check_tokens(x)
        return self._gate_of_tokens(gates, layer.rows, name, x)

    def enter(self, x: Tensor) -> None:
        """A block of the network begins."""
        self.entered = len(x), x.shape[1]

    def _check_tokens(self, x: Tensor) -> None:
        """RegionStyleError where a layer inside a block gets other tokens than the block."""
        if self.entered is not None and (len(x), x.shape[1]) != self.entered:
            got, wanted = f"{len(x)}x{x.shape[1]}", "{}x{}".format(*self.entered)
            raise RegionStyleError(
                f"image tokens: got {got} (batch x tokens) inside a block of {wanted}, expected the same. A patch that "
                "tiles or merges tokens (HyperTile, ToMe) cannot be combined with masks: switch it off, or use numbers "
                "as gates."
            )

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

    def _seen(self) -> TokenLayout:
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
        regions = [name for name in gates.regions if name in names or gates.isolated] if gates is not None else []
        if gates is None or not regions:
            return original(x, *args, **kwargs)
        self._check_tokens(x)
        (grid,) = self._seen().image(x.shape[1])
        before, self._kept = self._kept, {}
        # Stacks inside each other: both divide all places among their own regions.
        whole = isinstance(original, WrappedForward) or attention_share.get() is not None
        parts = gates.parts(regions, grid, len(x), x.device, whole=whole)
        try:
            return self._blended(gates, parts, original, x, args, kwargs)
        finally:
            self._kept = before

    def _blended(
        self,
        gates: ActiveGates,
        parts: list[RegionPart],
        original: Callable[..., Tensor],
        x: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """The passes of all parts, each over its own places, times their shares. Queries do not see each other."""
        total: Tensor | None = None
        for part in parts:
            own = x if part.places is None else x[:, part.places]
            with self._only(part.region, part.share):
                y = self._pass(gates, part.region, original, own, args, kwargs)
            y = part.share[..., None].to(y.dtype) * y
            if part.places is not None:
                y = y.new_zeros(*x.shape[:2], y.shape[-1]).index_copy(1, part.places, y)
            total = y if total is None else total + y
        assert total is not None  # shares sum to 1, so some part has one
        return total

    def _pass(
        self,
        gates: ActiveGates,
        region: str,
        original: Callable[..., Tensor],
        x: Tensor,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        """One pass; places of an isolated region see only the tokens it may read, as if the others were not there.

        Leaving keys out is a bias of minus infinity, works with any attention function, and costs less.
        """
        if not gates.isolated:
            return original(x, *args, **kwargs)
        text = text_arguments(original, x, args, kwargs)
        readable = gates.reads(region, text.tokens) if bool((positive := positive_rows(len(x))).any()) else None
        if readable is None:
            return original(x, *args, **kwargs)
        if whole_passes.get():
            original(x, *args, **kwargs)  # for those who observe: they look at all words, by their place in the prompt
        with words_hidden():
            return _pass_over(readable, positive, original, x, text)

    def around_joint_attention(
        self, what: None, original: Callable[..., Any], hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """A joint attention of diffusers that takes a mask, with the one that keeps isolated prompts apart."""
        gates, call = self.gates, self.call
        if gates is None or call is None or not gates.isolated:
            return original(hidden_states, *args, **kwargs)
        if len(args) > 1 or kwargs.get("attention_mask") is not None:
            raise wrong_input("joint attention", "an attention mask", "none", "Switch the isolation of prompts off.")
        bias = joint_bias(gates, call, len(hidden_states), hidden_states.device, hidden_states.dtype)
        return original(hidden_states, *args, **{**kwargs, "attention_mask": bias[:, None]})

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


@dataclass(frozen=True)
class TextArguments:
    """The arguments of a cross-attention's forward beside the image, by name, and which of them are text."""

    given: dict[str, Any]
    names: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return int(self.given[self.names[0]].shape[1])

    def read(self, tokens: Tensor | None, rows: tuple[int, ...] | None = None) -> dict[str, Any]:
        """The arguments for some rows of the batch, with some tokens of the text only."""

        def part(value: Tensor) -> Tensor:
            value = value if rows is None or len(value) == 1 else value[list(rows)]
            return value if tokens is None else value[:, tokens.to(value.device)]

        return {name: part(value) if name in self.names else value for name, value in self.given.items()}


def text_arguments(
    original: Callable[..., Tensor], x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> TextArguments:
    """Of diffusers' and ComfyUI's cross-attentions. RegionStyleError for a mask over the text, and without a text."""
    bound = inspect.signature(original).bind_partial(x, *args, **kwargs)
    kinds = {name: parameter.kind for name, parameter in bound.signature.parameters.items()}
    given: dict[str, Any] = {}
    for name, value in list(bound.arguments.items())[1:]:
        # A wrapper of another pack may take everything as it comes; what it got without a name is not known here.
        given.update(value if kinds[name] is inspect.Parameter.VAR_KEYWORD else {name: value})
    names = tuple(n for n in ("encoder_hidden_states", "context", "value") if isinstance(given.get(n), Tensor))
    masked = next((n for n in ("attention_mask", "mask") if given.get(n) is not None), None)
    if masked or not names:
        got = "an attention mask over the text" if masked else "no text"
        raise wrong_input("cross-attention", got, "a text without one", "Switch the isolation of prompts off.")
    return TextArguments(given, names)


def _pass_over(
    readable: Tensor, positive: Tensor, original: Callable[..., Tensor], x: Tensor, text: TextArguments
) -> Tensor:
    """A pass in which rows of the positive prompt see the readable tokens only."""
    if bool(positive.all()):
        return original(x, **text.read(readable))
    made = {rows: original(x[list(rows)], **text.read(only, rows)) for rows, only in _groups(positive, readable)}
    order = torch.tensor([row for rows in made for row in rows]).argsort().to(x.device)
    return torch.cat(list(made.values()))[order]


def _groups(positive: Tensor, readable: Tensor) -> list[tuple[tuple[int, ...], Tensor | None]]:
    """Rows of the batch with the tokens they may read: those of the positive prompt, and the others."""
    rows = positive.nonzero().squeeze(1).tolist(), (~positive).nonzero().squeeze(1).tolist()
    return [(tuple(rows[0]), readable), (tuple(rows[1]), None)]
