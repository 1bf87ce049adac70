"""LoRA experts on one network, gated per image and per place, without touching the network's weights.

`forward` of the Linear and Conv2d layers is wrapped, so switching costs nothing, quantised and offloaded networks
work, and detaching restores the network exactly. What a mask means depends on the layer:

- layers over the image (self-attention, feed-forward, convolutions): the expert acts at the masked places;
- cross-attention: keys and values belong to words, not places. The whole attention runs once per masked expert, with
  that expert at its strength, and once without; the outputs are blended by the masks;
- joint attention (FLUX, SD3): image tokens as above, text tokens by who owns them (`Gates`);
- layers without places (time embedding, modulation): `Gates.pooled`.

Which networks, and how to add one: `adapter_families.py`. Which files, and how to add a format: `adapter_files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapter_families import Call, Family, bound, family_of
from .adapter_layers import ExpertWeights, Update, conv_update, linear_update, new_update
from .errors import RegionStyleError, wrong_input
from .expert import Expert
from .gates import ActiveGates, Gates, attention_share
from .wrapped_forward import WrappedForward


@dataclass(eq=False)
class _Layer:
    """A layer of the network, what its rows stand for (`adapter_families.py`), and the updates experts have for it.

    path: diffusers path (of one of its parts).
    """

    path: str
    module: nn.Module
    rows: str
    updates: list[Update]


class ExpertStack:
    """Experts attached to one network.

    Usage: `with ExpertStack(unet, experts) as stack: stack.set(Gates({"sketch": mask})); unet(...)`. All experts are
    off until `set`. Several stacks, and wrappers of others, may be attached to one network at once. With gradient
    checkpointing the gates must stay set until the backward pass is over.
    """

    def __init__(
        self,
        network: nn.Module,
        experts: Sequence[Expert | ExpertWeights],
        *,
        family: Family | None = None,
    ) -> None:
        """family: how this network is built (default: the known family that accepts it).

        RegionStyleError for a network of another kind, two experts of one name, layers the network does not have,
        and layers of other sizes. Nothing is attached yet.
        """
        self.network = network
        self._experts = [e if isinstance(e, ExpertWeights) else ExpertWeights(e) for e in experts]
        self.weights = nn.ModuleList(self._experts)
        self._check_names()
        self._family = family or family_of(network)
        self._layers, self._attentions = self._find()
        self._wraps: list[WrappedForward] = []
        self._call_hook: Any = None
        self._call: Call | None = None
        self._gates: ActiveGates | None = None
        # In a pass over a cross-attention: the expert whose region it is for, "" in the one for the rest.
        self._region: str | None = None

    @property
    def names(self) -> list[str]:
        """The experts' names, in order."""
        return [weights.name for weights in self._experts]

    @property
    def attached(self) -> bool:
        return bool(self._wraps)

    def parameters(self, name: str | None = None) -> Iterator[nn.Parameter]:
        """The tensors of all experts, or of one. They are what the network runs with: train them in place."""
        return (self.weights if name is None else self._named(name)).parameters()

    def expert(self, name: str) -> Expert:
        """One expert with its current weights, for saving."""
        return self._named(name).expert()

    def attach(self) -> ExpertStack:
        """Wrap the layers; does nothing when attached. On an error the network is as before.

        Layers from which somebody else has removed the wrapper since are wrapped again.
        """
        if any(wrap.cut_off for wrap in self._wraps):
            self.detach()
        if self.attached:
            return self
        try:
            for layer in self._layers:
                self._wrap(layer.module, self._around_layer, layer)
            for module, names in self._attentions:
                self._wrap(module, self._around_attention, names)
            # A function, not a method: a deep copy of the network must not copy this stack with it.
            hook = lambda network, args, kwargs: self._see_call(args, kwargs)  # noqa: E731
            self._call_hook = self.network.register_forward_pre_hook(hook, with_kwargs=True)
        except BaseException:
            self.detach()
            raise
        return self

    def detach(self) -> None:
        """Restore the network exactly; does nothing when not attached. Gates stay set."""
        while self._wraps:
            self._wraps.pop().restore()
        if self._call_hook is not None:
            self._call_hook.remove()
            self._call_hook = None
        self._call = None

    def __enter__(self) -> ExpertStack:
        return self.attach()

    def __exit__(self, *error: object) -> None:
        self.detach()

    def set(self, gates: Gates) -> None:
        """Let the experts act from now on. RegionStyleError for gates that do not fit; the old ones then stay."""
        self._gates = ActiveGates(gates, self.names)

    def reset(self) -> None:
        """Switch all experts off."""
        self._gates = None

    @contextmanager
    def using(self, gates: Gates | ActiveGates | None) -> Iterator[None]:
        """`set` for the length of a block (None: all off); what was set before comes back."""
        before = self._gates
        self._gates = ActiveGates(gates, self.names) if isinstance(gates, Gates) else gates
        try:
            yield
        finally:
            self._gates = before

    def _named(self, name: str) -> ExpertWeights:
        for weights in self._experts:
            if weights.name == name:
                return weights
        raise wrong_input("expert", repr(name), f"one of {self.names}", "Name an expert of this stack.")

    def _check_names(self) -> None:
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise wrong_input("experts", f"{sorted(twice)} twice", "different names", "Rename one: load_expert(name=).")

    def _find(self) -> tuple[list[_Layer], list[tuple[nn.Module, list[str]]]]:
        """Layers with updates, and cross-attentions with updates inside and whose."""
        modules = dict(self.network.named_modules())
        places = self._family.places(self.network)
        layers: dict[str, _Layer] = {}
        attentions: dict[str, dict[str, None]] = {}
        self._check_paths(places)
        for expert in self._experts:
            for path, weights in expert.items():
                place = places[path]
                module = modules[place.path]
                layer = layers.setdefault(place.path, _Layer(path, module, self._family.rows(path), []))
                layer.updates.append(new_update(expert.name, path, weights, place, module))
                if home := self._family.attention(path):
                    attentions.setdefault(places[home].path, {})[expert.name] = None
        return list(layers.values()), [(modules[path], list(names)) for path, names in attentions.items()]

    def _check_paths(self, places: Container[str]) -> None:
        missing = [path for expert in self._experts for path, _ in expert.items() if path not in places]
        if missing:
            shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            got = f"{len(missing)} layers that the network does not have ({shown})"
            raise wrong_input("experts", got, "layers of this network", "Use experts trained for this kind of model.")

    def _wrap(self, module: nn.Module, around: Callable[..., Any], what: object) -> None:
        self._wraps.append(WrappedForward(module, lambda original, *a, **kw: around(what, original, *a, **kw)))

    def _see_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._gates is not None and self._gates.regions:
            self._call = self._family.call(self.network, bound(self.network, args, kwargs))

    def _around_layer(self, layer: _Layer, original: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any) -> Tensor:
        y = original(x, *args, **kw)
        gates = self._gates
        if gates is None:
            return y
        found = [(u, self._gate(gates, layer, u.expert, x, y)) for u in layer.updates if u.expert in gates]
        active = [(update, gate) for update, gate in found if gate is not None]
        if not active:
            return y
        if isinstance(layer.module, nn.Conv2d):
            return y + conv_update(layer.module, x, active).to(y.dtype)
        return y + linear_update(x, active, y.shape[-1]).to(y.dtype)

    def _gate(self, gates: ActiveGates, layer: _Layer, name: str, x: Tensor, y: Tensor) -> Tensor | None:
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
        if self._call is None:
            raise RegionStyleError(
                "gates: got a mask while a layer ran outside of its network; expected a pass of the whole network, "
                "which tells the size of the latent. Use numbers as gates there."
            )
        return self._call

    def _around_attention(
        self, names: list[str], original: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """One attention per masked expert and one for the rest, blended by the masks at this layer's grid."""
        gates = self._gates
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
