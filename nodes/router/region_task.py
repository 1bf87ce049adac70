"""What is asked for in one region of a picture, and what came of it: shared by both ways to restyle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.adapters.gates import Gates
from ..engine.errors import RegionStyleError
from ..engine.region.enlarged import enlarged_note
from ..engine.region.region import feather_mask

# From the region in the crop `[1,n,n]`, and the function that cuts any other mask like the picture, to the gates.
GateOf = Callable[[Tensor, Callable[[Tensor], Tensor]], Gates | None]
SHARPER = "Choose detail auto or full to work at the picture's own size."
# what tiles over an enlarged crop have lost
KEPT = "Choose detail full, or auto with a strength of 0.5 or less, to keep it."


def _no_gates(region: Tensor, cut: Callable[[Tensor], Tensor]) -> Gates | None:
    return None


@dataclass(frozen=True, eq=False)
class RegionTask:
    """mask `[H,W]` in 0..1, 1 = change; prompt: what the region shall show; gate: gives the experts' gates (None:
    experts stay as they are attached); negative: what it shall not show."""

    mask: Tensor
    prompt: str
    gate: GateOf = _no_gates
    negative: str | None = None

    def check(self) -> None:
        """RegionStyleError for an empty mask."""
        if not bool((self.mask > 0).any()):
            raise RegionStyleError(
                "mask: got no value above 0, expected a region to change. Draw it, or name a thing that is in the "
                "picture."
            )


@dataclass(frozen=True)
class Restyled:
    """image `[1,3,H,W]`; mask `[H,W]`, the composited one: where it is 0 the image equals the input bit for bit.

    idle: the experts that were to act -> why they did not, "" for those that did. detail: how it was worked on,
    "native", "full" or "both"; enlarged: how many times the pixels worked on in one crop were enlarged to fit the
    picture (of "both": before the tiles went over them); worked: their side.
    """

    image: Tensor
    mask: Tensor
    idle: Mapping[str, str] = field(default_factory=dict)
    detail: str = "native"
    enlarged: float = 1.0
    worked: int = 0

    @property
    def note(self) -> str:
        """What the user should know of the result's sharpness; "" for nothing."""
        if self.detail == "both":
            return enlarged_note(self.enlarged, self.worked, KEPT, "the picture's own fine detail")
        return enlarged_note(self.enlarged, self.worked, SHARPER)


def gate_region(mask: Tensor, grow: int) -> Tensor:
    """The region an expert acts in: the mask grown by one latent cell, since an edge cell needs whole style.

    mask `[n,n]` -> `[1,n,n]` in 0..1.
    """
    return feather_mask((mask > 0).to(mask), grow)[None]


def fitted(other: Tensor, mask: Tensor) -> Tensor:
    """A mask `[h,w]` at the size of another."""
    if other.shape == mask.shape:
        return other
    return F.interpolate(other[None, None].float(), mask.shape, mode="bilinear", antialias=True)[0, 0]


def without_overlaps(masks: list[Tensor]) -> list[Tensor]:
    """Masks `[H,W]` of which later ones lie on top: where they are, those before are not."""
    result: list[Tensor] = []
    for number, mask in enumerate(masks):
        for later in masks[number + 1 :]:
            mask = mask * (1 - later)
        result.append(mask)
    return result


def united(masks: list[Tensor]) -> Tensor:
    """What any of the masks `[H,W]` covers."""
    return torch.stack(masks).amax(0) if len(masks) > 1 else masks[0]
