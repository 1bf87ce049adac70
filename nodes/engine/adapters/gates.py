"""Gates: how strongly each expert acts, as one number, per image of the batch, or per position in the image.

What a gate may be, and the checks of one that somebody passes in. How a network's layers read it: `active_gates.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import wrong_input

Pooled = Literal["mean", "off"]
SharedText = Literal["share", "off"]
OPTIONS: dict[str, tuple[str, ...]] = {"pooled": get_args(Pooled), "shared_text": get_args(SharedText)}


@dataclass(frozen=True, eq=False)
class RegionGate:
    """An expert at `strength` inside a mask.

    mask `[B or 1,H,W]` or `[H,W]` in 0..1, in the resolution of the image, of the latent, or any other. Unlike a mask
    multiplied by a number, a strength also changes the expert itself where keys and values come from the text.

    owned_tokens: bool `[B or 1,L]` or `[L]`, the text tokens of the (positive) prompt that name this expert's style or
    object; tokens after the L-th are nobody's. They matter in joint attentions only; cross-attentions are blended by
    the mask.

    pooled, shared_text: as in `Gates`, for this expert alone (None: what the `Gates` say).

    visible_tokens: bool `[L]`, the text tokens of the (positive) prompt that image tokens in this region may attend to,
    of L tokens in all (None: every one). Others are hidden from it as by a bias of minus infinity: attention isolation.
    """

    mask: Tensor
    strength: float = 1.0
    owned_tokens: Tensor | None = None
    pooled: Pooled | None = None
    shared_text: SharedText | None = None
    visible_tokens: Tensor | None = None


# A number; a tensor `[]` or `[B]`; a mask `[B or 1,H,W]` or `[H,W]`, which is short for RegionGate(mask).
Gate = float | Tensor | RegionGate


@dataclass(frozen=True, eq=False)
class Gates:
    """Expert name -> gate; experts without an entry are off.

    Tensors have one entry for each image, or one for all; they repeat when a batch holds the images several times,
    one block of images after the other (positive and negative prompt).

    pooled: what a mask means for layers without positions, such as the time embedding or a modulation: "mean" (its
    average over the image) or "off". shared_text: what it means for the text tokens of a joint attention that no
    expert owns: "share" (1/E each) or "off". Either may be given by expert, with the default for those not named; the
    option of an expert without a mask counts once its gate is limited to a region.

    rest_visible_tokens: what `RegionGate.visible_tokens` is, for the image tokens outside all masks.
    """

    values: Mapping[str, Gate] = field(default_factory=dict)
    pooled: Pooled | Mapping[str, Pooled] = "mean"
    shared_text: SharedText | Mapping[str, SharedText] = "share"
    rest_visible_tokens: Tensor | None = None

    def resolved(self) -> Gates:
        """The same with the options written down for every expert, so that other gates can be added beside them."""
        by_expert: dict[str, Any] = {
            option: {name: self._option(option, name) for name in self.values} for option in OPTIONS
        }
        return replace(self, values={name: self._with_options(name, gate) for name, gate in self.values.items()},
                       **by_expert)  # fmt: skip

    def merged_over(self, before: Gates) -> Gates:
        """These gates added to those set before: each expert keeps its options, and whoever is named again is new."""
        earlier, own = before.resolved(), self.resolved()
        options: dict[str, Any] = {option: {**getattr(earlier, option), **getattr(own, option)} for option in OPTIONS}
        rest = before.rest_visible_tokens if self.rest_visible_tokens is None else self.rest_visible_tokens
        return Gates({**earlier.values, **own.values}, **options, rest_visible_tokens=rest)

    def scaled(self, factor: float) -> Gates:
        """The same experts at the same places, each `factor` times as strong."""
        return self if factor == 1 else replace(self, values={n: _scaled(g, factor) for n, g in self.values.items()})

    def _option(self, option: str, name: str) -> str:
        chosen = getattr(self, option)
        return chosen.get(name, OPTIONS[option][0]) if isinstance(chosen, Mapping) else chosen

    def _with_options(self, name: str, gate: Gate) -> Gate:
        if isinstance(gate, Tensor) and gate.ndim in (2, 3):
            gate = RegionGate(gate)
        if not isinstance(gate, RegionGate):
            return gate
        unset: dict[str, Any] = {
            option: self._option(option, name) for option in OPTIONS if getattr(gate, option) is None
        }
        return replace(gate, **unset)


def _scaled(gate: Gate, factor: float) -> Gate:
    """A mask says where, so its strength is scaled and not its values."""
    if isinstance(gate, Tensor) and gate.ndim >= 2:
        gate = RegionGate(gate)
    return replace(gate, strength=gate.strength * factor) if isinstance(gate, RegionGate) else gate * factor


def check_options(gates: Gates | RegionGate) -> None:
    """RegionStyleError for a value of `pooled` or `shared_text` that there is not."""
    for option, accepted in OPTIONS.items():
        chosen = getattr(gates, option)
        for value in chosen.values() if isinstance(chosen, Mapping) else [chosen]:
            if value not in accepted:
                shown = " or ".join(map(repr, accepted))
                raise wrong_input(f"gates.{option}", repr(value), shown, "Correct the option.")


def checked_gate(name: str, gate: Gate, isolating: bool = False) -> float | Tensor | RegionGate | None:
    """The gate of explicit `Gates` in its plain form; None where it is off everywhere.

    isolating: image tokens outside all masks may not attend to every text token. Then, and where a region has
    `visible_tokens`, one that is off stays with strength 0: what its image tokens and the rest see is not a matter of
    the expert. RegionStyleError for a gate of another kind, shape or range.
    """
    if isinstance(gate, Tensor) and gate.ndim == 0:
        gate = gate[None]
    if isinstance(gate, RegionGate):
        return _region(name, gate, isolating)
    if isinstance(gate, Tensor) and gate.ndim == 1 and len(gate):
        if gate.is_complex() or not bool(gate.isfinite().all()):
            raise wrong_input(f"gate of {name!r}", gate.tolist()[:8], "finite real numbers", "Correct them.")
        return _float(gate) if gate.requires_grad or bool(gate.any()) else None
    if isinstance(gate, Tensor):
        raise wrong_input(f"gate of {name!r}", list(gate.shape), "[B], [H,W] or [B,H,W]", "Reshape it.")
    return _number(f"gate of {name!r}", gate) or None


def _number(what: str, value: object) -> float:
    """RegionStyleError for what is no finite number; a tensor of one number is one."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if not isinstance(value, Real) or not math.isfinite(value):
        raise wrong_input(what, repr(value), "a finite number, or a mask for a gate", "Correct it.")
    return float(value)


def _region(name: str, gate: RegionGate, isolating: bool) -> RegionGate | None:
    _check_kind(f"mask of {name!r}", gate.mask, "a tensor of real numbers")
    strength = _number(f"strength of {name!r}", gate.strength)
    mask = gate.mask if gate.mask.ndim == 3 else gate.mask[None]
    if mask.ndim != 3 or not mask.numel():
        raise wrong_input(f"mask of {name!r}", list(gate.mask.shape), "[H,W] or [B,H,W]", "Reshape it.")
    low, high = (float(value) for value in mask.detach().float().aminmax())
    if not (low >= 0 and high <= 1):
        raise wrong_input(f"mask of {name!r}", f"{low:g}..{high:g}", "0..1", "Scale it, or use RegionGate's strength.")
    check_options(gate)
    off = strength == 0 or (high == 0 and not mask.requires_grad)
    if off and gate.visible_tokens is None and not isolating:
        return None
    return replace(gate, mask=_float(mask), strength=0.0 if off else strength,
                   owned_tokens=_owned_tokens(name, gate.owned_tokens),
                   visible_tokens=checked_visible_tokens(name, gate.visible_tokens))  # fmt: skip


def checked_visible_tokens(name: str, visible: Tensor | None) -> Tensor | None:
    """`visible_tokens` of a region, or of the rest; RegionStyleError unless it is bool `[L]` with a visible token."""
    if visible is None:
        return None
    what = f"visible_tokens of {name!r}"
    _check_kind(what, visible, "a bool tensor [L]")
    if visible.dtype != torch.bool or visible.ndim != 1 or not bool(visible.any()):
        got = f"{str(visible.dtype).removeprefix('torch.')} {list(visible.shape)} with {int(visible.sum())} set"
        raise wrong_input(what, got, "bool [L] with one or more set", "Mark tokens with True.")
    return visible


def _owned_tokens(name: str, owned: Tensor | None) -> Tensor | None:
    """`owned_tokens` of a region as `[B or 1,L]`."""
    if owned is None:
        return None
    what = f"owned_tokens of {name!r}"
    _check_kind(what, owned, "a bool tensor [L] or [B,L]")
    if owned.dtype != torch.bool or owned.ndim not in (1, 2):
        got = f"{str(owned.dtype).removeprefix('torch.')} {list(owned.shape)}"
        raise wrong_input(what, got, "bool [L] or [B,L]", "Mark the tokens with True.")
    return owned if owned.ndim == 2 else owned[None]


def _check_kind(what: str, value: object, accepts: str) -> None:
    """RegionStyleError for what is no tensor, or one of complex numbers."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise wrong_input(what, got, accepts, "Convert it.")


def _float(value: Tensor) -> Tensor:
    """In float32 or better."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
