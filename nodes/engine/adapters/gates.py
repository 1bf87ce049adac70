"""What a gate may be: a number, one per image, or a mask; and the checks of a gate that somebody passes in."""

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

    words: bool `[B or 1,L]` or `[L]`, the text tokens of the (positive) prompt that name this expert's style or object;
    tokens after the L-th are nobody's. It matters in joint attentions only; cross-attentions are blended by the mask.

    pooled, shared_text: as in `Gates`, for this expert alone (None: what the `Gates` say).

    reads: bool `[L]`, the text tokens of the (positive) prompt that places in this region may read, of L tokens in all
    (None: every one). Others are hidden from it as by a bias of minus infinity: attention isolation.
    """

    mask: Tensor
    strength: float = 1.0
    words: Tensor | None = None
    pooled: Pooled | None = None
    shared_text: SharedText | None = None
    reads: Tensor | None = None


# A number; a tensor `[]` or `[B]`; a mask `[B or 1,H,W]` or `[H,W]`, which is short for RegionGate(mask).
Gate = float | Tensor | RegionGate


@dataclass(frozen=True, eq=False)
class Gates:
    """Expert name -> gate; experts without an entry are off.

    Tensors have one entry for each image, or one for all; they repeat when a batch holds the images several times,
    one block of images after the other (positive and negative prompt). pooled: what a mask means for layers without
    places, such as the time embedding or a modulation: "mean" (its average over the image) or "off". shared_text: what
    it means for the text tokens of a joint attention that no expert owns: "share" (1/E each) or "off". Either may be
    given by expert, with the default for those not named; the option of an expert without a mask counts once its gate
    is limited to a region. rest_reads: what `RegionGate.reads` is, for the places outside all masks.
    """

    values: Mapping[str, Gate] = field(default_factory=dict)
    pooled: Pooled | Mapping[str, Pooled] = "mean"
    shared_text: SharedText | Mapping[str, SharedText] = "share"
    rest_reads: Tensor | None = None

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
        rest = before.rest_reads if self.rest_reads is None else self.rest_reads
        return Gates({**earlier.values, **own.values}, **options, rest_reads=rest)

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

    isolating: places outside all masks may not read every token. Then, and where a region has `reads`, one that is
    off stays with strength 0: what its places and the rest read is not a matter of the expert.
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
    if off and gate.reads is None and not isolating:
        return None
    return replace(gate, mask=_float(mask), strength=0.0 if off else strength, words=_words(name, gate.words),
                   reads=checked_reads(name, gate.reads))  # fmt: skip


def checked_reads(name: str, reads: Tensor | None) -> Tensor | None:
    """`reads` of a region, or of the rest; RegionStyleError unless it is bool `[L]` with a token to read."""
    if reads is None:
        return None
    _check_kind(f"reads of {name!r}", reads, "a bool tensor [L]")
    if reads.dtype != torch.bool or reads.ndim != 1 or not bool(reads.any()):
        got = f"{str(reads.dtype).removeprefix('torch.')} {list(reads.shape)} with {int(reads.sum())} set"
        raise wrong_input(f"reads of {name!r}", got, "bool [L] with one or more set", "Mark tokens with True.")
    return reads


def _words(name: str, words: Tensor | None) -> Tensor | None:
    if words is None:
        return None
    _check_kind(f"words of {name!r}", words, "a bool tensor [L] or [B,L]")
    if words.dtype != torch.bool or words.ndim not in (1, 2):
        got = f"{str(words.dtype).removeprefix('torch.')} {list(words.shape)}"
        raise wrong_input(f"words of {name!r}", got, "bool [L] or [B,L]", "Mark the tokens with True.")
    return words if words.ndim == 2 else words[None]


def _check_kind(what: str, value: object, accepts: str) -> None:
    """RegionStyleError for what is no tensor, or one of complex numbers."""
    if not isinstance(value, Tensor) or value.is_complex():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise wrong_input(what, got, accepts, "Convert it.")


def _float(value: Tensor) -> Tensor:
    """In float32 or better."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
