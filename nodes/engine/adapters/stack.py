"""LoRA experts on one network, gated per image and per place, without touching the network's weights.

`forward` of the Linear and Conv2d layers is wrapped, so switching costs nothing, quantised and offloaded networks
work, and detaching restores the network exactly. What a mask means depends on the layer:

- layers over the image (self-attention, feed-forward, convolutions): the expert acts at the masked positions;
- cross-attention: keys and values belong to text tokens, not to positions. The whole attention runs once per masked
  expert, with that expert at its strength, and once without; the outputs are blended by the masks;
- joint attention (FLUX, SD3): image tokens as above, text tokens by who owns them (`Gates`);
- where image tokens may not see all text tokens (`RegionGate.visible_tokens`): in cross-attentions the others are left
  out of a region's pass, in joint attentions they get a bias (`isolation.py`);
- layers without positions (time embedding, modulation): `Gates.pooled`.

Which networks, and how to add one: `families/`. Which files, and how to add a format: `lora/keys.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import wrong_input
from ..families.base import ModelFamily
from ..families.registry import family_of
from ..families.token_layout import bound
from ..lora.expert import Expert
from .acting import note_experts
from .active_gates import ActiveGates
from .forward import GatedForward, GatedLayer
from .gates import Gates
from .isolation import check_isolable, joint_bias, with_override
from .updates import new_update
from .weights import ExpertWeights
from .wrapped_forward import WrappedForward


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
        family: ModelFamily | None = None,
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
        self._joint = [network.get_submodule(path) for path in self._family.masked_attentions(network)]
        self._wraps: list[WrappedForward] = []
        self._hooks: list[Any] = []
        self._gated = GatedForward()

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
                self._wrap(layer.module, self._gated.around_layer, layer)
            for module, names in self._attentions:
                self._wrap(module, self._gated.around_attention, names)
            for module in self._joint:
                self._wrap(module, self._gated.around_joint_attention, None)
            self._watch_calls()
        except BaseException:
            self.detach()
            raise
        return self

    def detach(self) -> None:
        """Restore the network exactly; does nothing when not attached. Gates stay set."""
        while self._wraps:
            self._wraps.pop().restore()
        while self._hooks:
            self._hooks.pop().remove()
        self._gated.layout = None
        self._gated.forget_lengths()

    def __enter__(self) -> ExpertStack:
        return self.attach()

    def __exit__(self, *error: object) -> None:
        self.detach()

    def forget_lengths(self) -> None:
        """What was measured of the network's weights, for DoRA, is measured anew: they may be others now."""
        self._gated.forget_lengths()

    def set(self, gates: Gates) -> None:
        """Let the experts act from now on. RegionStyleError for gates that do not fit; the old ones then stay."""
        self._act(ActiveGates(gates, self.names))

    @contextmanager
    def using(self, gates: Gates | ActiveGates | None) -> Iterator[None]:
        """`set` for the length of a block (None: all off); what was set before comes back."""
        before = self._gated.gates
        active = ActiveGates(gates, self.names) if isinstance(gates, Gates) else gates
        note_experts(self._experts, [] if active is None else active.acting)
        self._act(active)
        try:
            yield
        finally:
            self._act(before)

    def as_now(self) -> Callable[[], AbstractContextManager[None]]:
        """What puts the gates of this moment, and what is known of the running pass, back for the length of a block."""
        gated = self._gated
        now = gated.gates, gated.layout, gated.block_tokens

        @contextmanager
        def again() -> Iterator[None]:
            before = gated.gates, gated.layout, gated.block_tokens
            gated.gates, gated.layout, gated.block_tokens = now
            try:
                yield
            finally:
                gated.gates, gated.layout, gated.block_tokens = before

        return again

    def _act(self, gates: ActiveGates | None) -> None:
        """Other gates from now on; what was known of an earlier pass is forgotten with those before."""
        self._gated.gates, self._gated.layout = gates, None

    def _named(self, name: str) -> ExpertWeights:
        for weights in self._experts:
            if weights.name == name:
                return weights
        raise wrong_input("expert", repr(name), f"one of {self.names}", "Name an expert of this stack.")

    def _check_names(self) -> None:
        twice = {name for name in self.names if self.names.count(name) > 1}
        if twice:
            raise wrong_input("experts", f"{sorted(twice)} twice", "different names", "Rename one: load_expert(name=).")

    def _find(self) -> tuple[list[GatedLayer], list[tuple[nn.Module, list[str]]]]:
        """Layers with updates, and all cross-attentions with whose updates are inside."""
        modules = dict(self.network.named_modules())
        places = self._family.layer_slices(self.network)
        layers: dict[str, GatedLayer] = {}
        attentions: dict[str, dict[str, None]] = {}
        self._check_paths(places)
        for path in places:
            if home := self._family.cross_attention_of(path):
                attentions.setdefault(places[home].module, {})
        for expert in self._experts:
            for path, weights in expert.items():
                place = places[path]
                module = modules[place.module]
                layer = layers.setdefault(place.module, GatedLayer(path, module, self._family.token_kind(path), []))
                layer.updates.append(new_update(expert.name, path, weights, place, module))
                if home := self._family.cross_attention_of(path):
                    attentions.setdefault(places[home].module, {})[expert.name] = None
        return list(layers.values()), [(modules[path], list(names)) for path, names in attentions.items()]

    def _check_paths(self, places: Container[str]) -> None:
        missing = [path for expert in self._experts for path, _ in expert.items() if path not in places]
        if missing:
            shown = ", ".join(missing[:8]) + (", ..." if len(missing) > 8 else "")
            got = f"{len(missing)} layers that the network does not have ({shown})"
            raise wrong_input("experts", got, "layers of this network", "Use experts trained for this kind of model.")

    def _wrap(self, module: nn.Module, around: Callable[..., Any], what: object) -> None:
        self._wraps.append(WrappedForward(module, lambda original, *a, **kw: around(what, original, *a, **kw)))

    def _watch_calls(self) -> None:
        # Functions, not methods: a deep copy of the network must not copy this stack with it.
        begin = lambda network, args, kwargs: (args, self._begin_call(args, kwargs))  # noqa: E731
        end = lambda network, args, output: self._end_call(failed=output is None)  # noqa: E731
        enter = lambda _, args, kwargs: self._gated.enter(*args[:1], *list(kwargs.values())[: not args])  # noqa: E731
        self._hooks.append(self.network.register_forward_pre_hook(begin, with_kwargs=True))
        for block in self._family.token_blocks(self.network):
            self._hooks.append(block.register_forward_pre_hook(enter, with_kwargs=True))
        self._hooks.append(self.network.register_forward_hook(end, always_call=True))

    def _begin_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """See the tokens of the pass; returns its keyword arguments, with an override where prompts are isolated."""
        self._gated.layout, self._gated.block_tokens, gates = None, None, self._gated.gates
        if gates is None or not gates.regions:
            return kwargs
        layout = self._gated.layout = self._family.token_layout(self.network, bound(self.network, args, kwargs))
        if not (gates.isolated and layout.text) or self._joint:
            return kwargs
        check_isolable("transformer_options" in kwargs, type(self.network).__name__)
        tokens = layout.text + sum(height * width for height, width in layout.grids)
        return with_override(kwargs, lambda q: joint_bias(gates, layout, len(q), q.device, q.dtype), tokens)

    def _end_call(self, failed: bool) -> None:
        """Forget the pass, unless gradient checkpointing may run its layers again before the gates change."""
        if failed or not torch.is_grad_enabled():
            self._gated.layout = None
