"""The harmoniser that comes with the pack: decides at low resolution, changes at any."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..base import OnStep, check_composite, check_has_surroundings
from ..statistics.areas import FEWEST, check_reference, too_few
from .bilateral import apply_grid, fit_grid
from .files import load_network
from .look import Look, carried_on, look, sides
from .network import SmallHarmonizerNetwork

GRID = 96  # pixels of the longer side that the network looks at, as in its training
STEP = 16  # what both sides are multiples of
MARGIN = 0.6  # of the foreground's box on each side: how much of the surroundings is looked at
Box = tuple[slice, slice]


class SmallHarmonizer:
    """The bundled network with a bilateral grid. Runs on the CPU or wherever its picture is."""

    def __init__(self, network: SmallHarmonizerNetwork | None = None) -> None:
        """network: default: the one that ships, loaded once."""
        self.network = network or bundled_network()

    @torch.no_grad()
    def harmonize(
        self,
        composite: Tensor,
        mask: Tensor,
        *,
        reference: Tensor | None = None,
        reference_mask: Tensor | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """See `Harmonizer.harmonize`; nothing is drawn at random, so the seed changes nothing.

        Works in the foreground's box only, one picture after the other. RegionStyleError for a mask without foreground
        or, where no reference is given, without background.
        """
        check_composite(composite, mask)
        check_reference(reference, reference_mask, len(composite))
        if reference is None:
            check_has_surroundings(mask)
        result = composite.clone()
        for index in range(len(composite)):
            at = min(index, 0 if reference is None else len(reference) - 1)
            guide = None if reference is None else reference[at : at + 1].to(composite)
            guide_mask = None if reference_mask is None else reference_mask[at : at + 1].to(composite)
            self._one(
                composite[index : index + 1], mask[index : index + 1], guide, guide_mask, result[index : index + 1]
            )
            if on_step is not None:
                on_step(index + 1, len(composite), result[index])
        return result

    def _one(
        self, picture: Tensor, mask: Tensor, reference: Tensor | None, reference_mask: Tensor | None, result: Tensor
    ) -> None:
        """One picture `[1,3,H,W]`, written into `result`."""
        tight, wide = foreground_boxes(mask)
        around = (slice(None), slice(None), *wide)
        size = looking_size(mask[around].shape)
        seen = look(picture[around].float(), mask[around].float(), size)
        if reference is not None:
            seen = _with_reference(seen, reference.float(), reference_mask)
        network = self.network.to(picture.device)
        grid = fit_grid(seen.foreground, network(seen).clamp(0, 1), seen.mask)
        rows, columns = (slice(t.start - w.start, t.stop - w.start) for t, w in zip(tight, wide, strict=True))
        inside, whole = (slice(None), slice(None), *tight), tuple(mask[around].shape[-2:])
        apply_grid(grid, picture[inside], result[inside], (rows, columns), (whole[0], whole[1]))


@lru_cache(maxsize=1)
def bundled_network(path: Path | None = None) -> SmallHarmonizerNetwork:
    """The network that ships, read once in a process."""
    return load_network(path)


def foreground_boxes(mask: Tensor) -> tuple[Box, Box]:
    """Rows and columns of the foreground of one mask `[1,1,H,W]`, and those with its surroundings."""
    inside = mask[0, 0] > 0
    if float(mask.sum()) < FEWEST:
        raise too_few("mask", float(mask.sum()), True)
    tight, wide = [], []
    for axis in (0, 1):
        used = inside.any(1 - axis).nonzero().flatten()
        first, last, length = int(used[0]), int(used[-1]) + 1, inside.shape[axis]
        margin = max(8, round(MARGIN * (last - first)))
        tight.append(slice(first, last))
        wide.append(slice(max(0, first - margin), min(length, last + margin)))
    return (tight[0], tight[1]), (wide[0], wide[1])


def looking_size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width the network looks at, multiples of `STEP`, the longer one `GRID`, about as the box is."""
    longer = max(shape[-2:])
    height, width = (max(STEP, round(GRID * n / longer / STEP) * STEP) for n in shape[-2:])
    return height, width


def _with_reference(seen: Look, reference: Tensor, reference_mask: Tensor | None) -> Look:
    """What is seen, with the reference in the background's place and a border that says nothing."""
    size = seen.mask.shape[-2:]
    if reference_mask is None:
        background = F.interpolate(reference, size, mode="area")
    else:
        colours, _, share = sides(reference, reference_mask.float(), (size[0], size[1]))
        if float(reference_mask.sum()) < FEWEST:
            raise too_few("reference_mask", float(reference_mask.sum()), True)
        background = carried_on(colours, share)
    return replace(seen, background=background, seam=torch.zeros_like(seen.seam))
