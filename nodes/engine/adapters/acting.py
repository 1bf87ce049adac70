"""Which experts acted in a run, and why the others did not: what a run that changed nothing has to say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from .gates import Gate, Gates, RegionGate
from .weights import ExpertWeights

_WATCHES: ContextVar[tuple[ExpertWatch, ...]] = ContextVar("regionstyle_expert_watches", default=())  # noqa: B039


class ExpertWatch:
    """What `watching_experts` has seen: the experts that networks had on them, and which of them acted."""

    def __init__(self) -> None:
        self._weights: dict[str, ExpertWeights] = {}
        self._acted: set[str] = set()

    def see(self, experts: Iterable[ExpertWeights], acting: Iterable[str]) -> None:
        """One use of a network: the experts on it, and the names of those whose gates are open somewhere."""
        self._weights |= {expert.name: expert for expert in experts}
        self._acted |= set(acting)

    def idle_reasons(self, gates: Gates | None) -> dict[str, str]:
        """Every expert that was given a gate -> why it did not act, "" where it did."""
        given = {} if gates is None else gates.values
        return {name: self._reason(name, gate) for name, gate in given.items() if name in self._weights}

    def _reason(self, name: str, gate: Gate) -> str:
        if _all_zero(self._weights[name]):
            return "all weights of its file are 0"
        if name in self._acted:
            return ""
        if _strength(gate) == 0:
            return "its strength is 0"
        if isinstance(gate, RegionGate) and not bool((gate.mask > 0).any()):
            return "its mask does not reach the region"
        return "none of the steps lay within its noise levels"


@contextmanager
def watching_experts() -> Iterator[ExpertWatch]:
    """Inside, every use of a network with experts is noted, on either host; blocks may be nested."""
    watch = ExpertWatch()
    token = _WATCHES.set((*_WATCHES.get(), watch))
    try:
        yield watch
    finally:
        _WATCHES.reset(token)


def note_experts(experts: Iterable[ExpertWeights], acting: Iterable[str]) -> None:
    """Tell whoever watches that a network is used now with these experts, and which of them act."""
    for watch in _WATCHES.get():
        watch.see(experts, acting)


def joined_reasons(parts: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """`idle_reasons` of several regions or pictures as one: who acted in one of them has acted."""
    joined: dict[str, str] = {}
    for part in parts:
        joined |= {name: why and joined.get(name, why) for name, why in part.items()}
    return joined


def _strength(gate: Gate) -> float:
    """The largest number of a gate, without its mask if it has one."""
    if isinstance(gate, RegionGate):
        return gate.strength
    if isinstance(gate, Tensor):
        return 1.0 if gate.ndim >= 2 else float(gate.abs().max())
    return float(gate)


@torch.no_grad()
def _all_zero(weights: ExpertWeights) -> bool:
    """Whether an expert's update is 0 in every layer, as that of a LoRA that was never trained. Magnitudes of DoRA are
    compared with nothing: they count as an update."""
    layers = [layer for _, layer in weights.items()]
    if any(layer.magnitude is not None for layer in layers):
        return False
    return all(layer.scale == 0 or not bool(layer.up.any()) or not bool(layer.down.any()) for layer in layers)
