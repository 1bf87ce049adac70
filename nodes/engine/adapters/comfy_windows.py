"""ComfyUI's context windows: a few frames of the batch run at a time, each with its own entry of every gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import wrong_input
from .gates import Gate, Gates, RegionGate


@dataclass(frozen=True)
class ContextWindow:
    """A part of the batch that runs by itself.

    frames: which entries of the batch are shown, in order; total: how many there are, None where that is not known;
    spatial: the window is over height or width, so `frames` says nothing.
    """

    frames: tuple[int, ...]
    total: int | None
    spatial: bool

    def fits(self, gates: Gates) -> None:
        """RegionStyleError where a gate has neither one entry nor one per frame."""
        for name, entries in _entries(gates).items():
            if entries != 1 and (entries <= max(self.frames) or self.total not in (None, entries)):
                total = "the number of frames" if self.total is None else f"{self.total}, the number of frames"
                accepts = f"1 or {total}, of which a context window shows a part"
                raise wrong_input(name, f"{entries} entries", accepts, "Give one mask, or one per frame.")

    def of(self, gates: Gates) -> Gates:
        """The gates of the frames that are shown. RegionStyleError for gates that do not fit."""
        self.fits(gates)
        return replace(gates, values={name: _rows(gate, list(self.frames)) for name, gate in gates.values.items()})


def running_window(model_options: Mapping[str, Any], batch: int | None) -> ContextWindow | None:
    """The context window that a call of `calc_cond_batch` with these options is for; None without windows.

    batch: how many frames there are, if that is known.
    """
    handler = model_options.get("context_handler")
    window = model_options.get("transformer_options", {}).get("context_window")
    if handler is None or window is None:
        return None
    dim = getattr(window, "dim", 0)
    # ComfyUI 0.33 puts the frame before a window in front of it, and repeats retained frames in every window.
    anchor = getattr(window, "causal_anchor_index", None)
    frames = [*([] if anchor is None or anchor < 0 else [anchor]), *window.index_list]
    for frame in getattr(handler, "latent_retain_index_list", ()):
        if frame < len(frames):
            frames[frame] = frame
    return ContextWindow(tuple(frames), batch, spatial=dim != 0)


def _entries(gates: Gates) -> dict[str, int]:
    """How many entries along the batch each gate has, by what an error calls it."""
    found = {}
    for name, gate in gates.values.items():
        if isinstance(gate, RegionGate):
            found[f"gate of {name!r}"] = len(gate.mask) if gate.mask.ndim == 3 else 1
            if gate.owned_tokens is not None and gate.owned_tokens.ndim == 2:
                found[f"owned_tokens of {name!r}"] = len(gate.owned_tokens)
        elif isinstance(gate, Tensor) and gate.ndim in (1, 3):
            found[f"gate of {name!r}"] = len(gate)
    return found


def _rows(gate: Gate, frames: list[int]) -> Gate:
    """The entries of some frames; what has one entry for all, or none along the batch, stays as it is."""
    if isinstance(gate, RegionGate):
        owned = gate.owned_tokens
        owned = owned if owned is None or owned.ndim == 1 else _chosen(owned, frames)
        return replace(gate, mask=_chosen(gate.mask, frames) if gate.mask.ndim == 3 else gate.mask, owned_tokens=owned)
    return _chosen(gate, frames) if isinstance(gate, Tensor) and gate.ndim in (1, 3) else gate


def _chosen(values: Tensor, frames: list[int]) -> Tensor:
    return values if len(values) == 1 else values[frames]
