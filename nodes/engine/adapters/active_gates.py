"""Gates: how strongly each expert acts, as one number, per image of the batch, or per place in the image.

Masks are given once, in any resolution, and read at every layer's own grid. Overlapping masks share a place: where
they sum to more than 1 they are divided by their sum. (RegionRoute gives no rule for overlaps; this one keeps experts
from adding up.)

In a joint attention (FLUX, SD3) the text has rows of its own, which no mask reaches. There an expert with a mask acts
fully on the text tokens that are its own, not at all on those of another expert, and on tokens that nobody owns with
1/E, E being the experts with a mask on that image, or not at all (`Gates.shared_text`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import wrong_input
from ..families.token_grid import Size, token_grid
from ..host.context import (
    any_positive,
    attention_share,
    batch_part,
    own_rows,
    part_of_batch,
    positive_rows,
    prompts_of_batch,
    whole_passes,
)
from .gate_values import Gate, Gates, RegionGate, check_options, checked_gate, checked_reads

Made = TypeVar("Made")

__all__ = [
    "ActiveGates",
    "Gate",
    "Gates",
    "RegionGate",
    "Size",
    "attention_share",
    "batch_part",
    "fit_batch",
    "own_rows",
    "part_of_batch",
    "prompts_of_batch",
    "positive_rows",
    "token_grid",
    "whole_passes",
]


@dataclass(frozen=True, eq=False)
class RegionPart:
    """Where one pass over a cross-attention counts: share `[B,K]` of it at the K image places `[K]` (None: at all)."""

    region: str
    share: Tensor
    places: Tensor | None


def _part(region: str, share: Tensor, whole: bool) -> RegionPart | None:
    """A part, at those places only where some image of the batch has a share; None where there is none."""
    places = None if whole else (share > 0).any(0).nonzero().squeeze(1)
    if places is None or len(places) == share.shape[1]:
        return RegionPart(region, share, None)
    return RegionPart(region, share[:, places], places) if len(places) else None


@dataclass(frozen=True)
class Acting:
    """Rows `first` to `last` (exclusive) of a batch, and the gate they share (None: they differ, or in places)."""

    first: int
    last: int
    value: float | None


class ActiveGates:
    """Gates of one call, checked, ready to be read layer by layer. Experts that are off everywhere are left out.

    regions: names of the experts with a mask, in order.
    """

    def __init__(self, gates: Gates, names: Iterable[str]) -> None:
        """RegionStyleError for a name that is not in `names` and for a gate of the wrong kind, shape or range."""
        known = list(names)
        named = [gates.values, *(option for option in (gates.pooled, gates.shared_text) if isinstance(option, Mapping))]
        if unknown := [name for table in named for name in table if name not in known]:
            raise wrong_input("gates", f"experts {unknown}", f"some of {known}", "Name experts that are attached.")
        check_options(gates)
        isolating = gates.rest_reads is not None
        checked = {name: checked_gate(name, gate, isolating) for name, gate in gates.resolved().values.items()}
        self._values = {name: gate for name, gate in checked.items() if gate is not None}
        self.regions = tuple(name for name, gate in self._values.items() if isinstance(gate, RegionGate))
        self._rest_reads = checked_reads("the rest", gates.rest_reads)
        self._made: dict[Any, Any] = {}

    def __contains__(self, name: object) -> bool:
        """Whether an expert acts; a region of one that is off may still say what its places read."""
        gate = self._values.get(name)  # type: ignore[call-overload]
        return gate is not None and not (isinstance(gate, RegionGate) and gate.strength == 0)

    def batch_sizes(self) -> dict[str, int]:
        """Entries of each gate that is a tensor or a mask, for the running part of the batch."""
        tensors = {name: g.mask if isinstance(g, RegionGate) else g for name, g in self._values.items()}
        return {name: len(own_rows(tensor)) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}

    def strength(self, region: str) -> float:
        return self._region(region).strength

    def per_image(self, name: str, batch: int, device: torch.device) -> Tensor:
        """The gate of an expert without a mask, `[batch]`."""
        gate = self._values[name]
        if not isinstance(gate, Tensor):
            return torch.full((batch,), float(gate), device=device)  # type: ignore[arg-type]
        if gate.requires_grad:
            return fit_batch(gate.to(device), batch, name)
        # Asked by every layer. A tensor made in inference mode could not be kept for a backward pass.
        key = ("gate", name, batch, device, torch.is_inference_mode_enabled())
        return self.remembered(key, lambda: fit_batch(gate.to(device), batch, name))

    def acting(self, name: str, batch: int) -> Acting:
        """The rows of the batch in which an expert can act: others need no work."""
        gate = self._values[name]
        if isinstance(gate, RegionGate) or (isinstance(gate, Tensor) and gate.requires_grad):
            return Acting(0, batch, None)
        make = lambda: _acting(self.per_image(name, batch, torch.device("cpu")))  # noqa: E731
        return self.remembered(("acting", name, batch), make)

    def per_place(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor:
        """strength * mask of an expert with a mask, on a grid: `[batch,h,w]`."""
        return self.masks(size, batch, device)[:, self.regions.index(name)] * self.strength(name)

    def averaged(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor | None:
        """strength * mean of the mask, `[batch]`; None with `pooled="off"`."""
        off = self._region(name).pooled == "off"
        return None if off else self.per_place(name, size, batch, device).mean((-2, -1))

    def over_image(self, name: str, grids: Sequence[Size], batch: int, device: torch.device) -> Tensor:
        """strength * mask of an expert with a mask, one value per image token of all grids in turn: `[batch,N]`."""
        return torch.cat([self.per_place(name, size, batch, device).flatten(1) for size in grids], 1)

    def over_text(self, name: str, tokens: int, batch: int, device: torch.device) -> Tensor:
        """The gate of an expert with a mask on the text tokens of a joint attention, `[batch,tokens]`.

        The rule stands at the top of this file. In texts other than the positive prompt (`prompts_of_batch`) every
        token is shared. An expert whose mask is empty on an image is off there, and not counted.
        """
        present = self._present(batch, device)
        owned = torch.stack([self._words(other, tokens, batch, device) for other in self.regions])
        own, shared = owned[self.regions.index(name)], ~owned.any(0)
        share = 1 / present.sum(0).clamp_min(1)
        share = share if self._region(name).shared_text == "share" else torch.zeros_like(share)
        gate = own.to(share) + shared.to(share) * share[:, None]
        return gate * (present[self.regions.index(name)] * self.strength(name))[:, None]

    def masks(self, size: Size, batch: int, device: torch.device) -> Tensor:
        """All masks on a grid, `[batch,R,h,w]` in the order of `regions`, nowhere summing to more than 1."""
        # Tensors made in inference mode cannot take part in a later backward pass, so they are not shared with it.
        key = ("masks", size, batch, device, torch.is_inference_mode_enabled(), torch.is_grad_enabled())
        return self.made_of_masks(key, lambda: self._all_masks(size, batch, device))

    @property
    def isolated(self) -> bool:
        """Whether some places may not read some tokens of the prompt."""
        return bool(self.regions) and any(self._reads(name) is not None for name in (*self.regions, ""))

    def reads(self, region: str, tokens: int) -> Tensor | None:
        """Positions of the tokens that a region may read, "" for the rest, on the CPU; None for all of them.

        ComfyUI repeats a prompt that runs together with a longer one: then all its repetitions.
        """
        reads = self._reads(region)
        if reads is None:
            return None
        if tokens % len(reads):
            got, accepts = f"{len(reads)} entries", f"{tokens}, the text tokens of the prompt that runs"
            name = region or "the rest"
            raise wrong_input(f"reads of {name!r}", got, accepts, "Use the prompt that was encoded for these gates.")
        key = ("reads", region, tokens)
        return self.remembered(key, lambda: reads.cpu().repeat(tokens // len(reads)).nonzero().squeeze(1))

    def remembered(self, key: Any, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once per key (and part of the batch) for as long as these gates are used."""
        key = (part_of_batch.get(), key)
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def made_of_masks(self, key: Any, make: Callable[[], Made]) -> Made:
        """What `make` makes of the masks: remembered, but for each pass anew where gradients flow to a mask."""
        learnt = torch.is_grad_enabled() and any(self._region(name).mask.requires_grad for name in self.regions)
        return make() if learnt else self.remembered(key, make)

    def _reads(self, region: str) -> Tensor | None:
        return self._region(region).reads if region else self._rest_reads

    def parts(
        self, names: Sequence[str], size: Size, batch: int, device: torch.device, *, whole: bool = False
    ) -> list[RegionPart]:
        """How a grid is divided among some experts with masks and, "", what they leave. Parts without any share are
        left out. whole: each part is of all places, where what runs there needs to see them all."""
        masks, whole = self.masks(size, batch, device), whole or whole_passes.get()
        key = ("parts", tuple(names), masks.data_ptr(), tuple(masks.shape), whole)
        return self.made_of_masks(key, lambda: self._divided(names, masks, whole))

    def _divided(self, names: Sequence[str], masks: Tensor, whole: bool) -> list[RegionPart]:
        shares = {name: masks[:, self.regions.index(name)].flatten(1) for name in names}
        shares[""] = (1 - torch.stack(list(shares.values())).sum(0)).clamp_min(0)
        made = [_part(name, share, whole or share.requires_grad) for name, share in shares.items()]
        return [part for part in made if part is not None]

    def _region(self, name: str) -> RegionGate:
        gate = self._values[name]
        assert isinstance(gate, RegionGate)
        return gate

    def _present(self, batch: int, device: torch.device) -> Tensor:
        """1 where an expert's mask is not empty, `[R,batch]`."""
        masks = {name: self._region(name).mask.detach() for name in self.regions}
        found = {name: (mask.amax((-2, -1)) * (name in self) > 0).float().to(device) for name, mask in masks.items()}
        return torch.stack([fit_batch(value, batch, name) for name, value in found.items()])

    def _words(self, name: str, tokens: int, batch: int, device: torch.device) -> Tensor:
        """The text tokens that belong to an expert, bool `[batch,tokens]`."""
        words = self._region(name).words
        if words is None or not any_positive():
            return torch.zeros(batch, tokens, dtype=torch.bool, device=device)
        if words.shape[1] > tokens:
            got, accepts = f"{words.shape[1]} entries", f"at most {tokens}, the text tokens of this network"
            raise wrong_input(f"words of {name!r}", got, accepts, "Count tokens of the prompt as encoded for it.")
        owned = fit_batch(F.pad(words.to(device), (0, tokens - words.shape[1])), batch, name)
        return owned & positive_rows(batch).to(device)[:, None]

    def _all_masks(self, size: Size, batch: int, device: torch.device) -> Tensor:
        masks = torch.stack([self._mask(name, size, batch, device) for name in self.regions], 1)
        return masks / masks.sum(1, keepdim=True).clamp_min(1)

    def _mask(self, name: str, size: Size, batch: int, device: torch.device) -> Tensor:
        mask = self._region(name).mask.to(device)
        return fit_batch(F.interpolate(mask[:, None], size=size, mode="area")[:, 0], batch, name)


def _acting(gate: Tensor) -> Acting:
    values = gate.tolist()
    rows = [row for row, value in enumerate(values) if value]
    first, last = (rows[0], rows[-1] + 1) if rows else (0, 0)
    return Acting(first, last, values[first] if len(set(values[first:last])) == 1 else None)


def fit_batch(value: Tensor, batch: int, name: str) -> Tensor:
    """Repeat the entries of a gate over a batch that holds the images once or several times, or over a part of it."""
    part = part_of_batch.get()
    if part is not None and len(value) > 1:
        value = _repeated(value, part.total, name)[part.rows]
    return _repeated(value, batch, name)


def _repeated(value: Tensor, batch: int, name: str) -> Tensor:
    if batch % len(value):
        accepts = f"1 or the number of images (the batch has {batch} entries)"
        raise wrong_input(f"gate of {name!r}", f"{len(value)} entries", accepts, "Give one mask, or one per image.")
    return value.repeat(batch // len(value), *[1] * (value.ndim - 1))
