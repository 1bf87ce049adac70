"""The harmoniser that comes with the pack: decides at low resolution, changes at any."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..base import OnStep, check_composite, check_has_surroundings
from ..statistics.areas import FEWEST, Area, area, check_reference, goal_area, too_few
from ..statistics.methods import ColourMap, reinhard
from .bilateral import apply_grid, fit_grid
from .files import load_network
from .look import look
from .network import SmallHarmonizerNetwork

GRID = 96  # pixels of the longer side that the network looks at, as in its training
STEP = 16  # what both sides are multiples of
COUNTED = 1 << 18  # pixels of a region, at most, whose statistics are taken
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

        Works in the foreground's box only, one picture after the other. With a reference the border tells nothing, and
        the network, which leans on it, would hardly change a thing: the foreground gets the reference's mean and spread
        of every channel in CIELAB (Reinhard et al., Color Transfer between Images, 2001), by the same smooth maps.
        RegionStyleError for a mask without foreground
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
        if reference is None:
            answer = self.network.to(picture.device)(seen).clamp(0, 1)
        else:
            answer = _mapped(seen.foreground, _towards(picture, mask, reference, reference_mask))
        grid = fit_grid(seen.foreground, answer, seen.mask)
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


def _towards(picture: Tensor, mask: Tensor, reference: Tensor, reference_mask: Tensor | None) -> ColourMap:
    """What gives the foreground of a picture `[1,3,H,W]` the colours of a reference `[1,3,h,w]`."""
    region = None if reference_mask is None else reference_mask[0].float()
    source, goal = area(picture[0], mask[0], "mask"), goal_area(picture[0], mask[0], reference[0], region)
    return reinhard(_thinned(source), _thinned(goal))


def _thinned(whole: Area) -> Area:
    """At most `COUNTED` of an area's pixels, evenly: Lab in double precision of all of them would take gigabytes."""
    step = -(-len(whole.weights) // COUNTED)
    weights = whole.weights[::step]
    return Area(whole.colours[::step], weights / weights.sum())


def _mapped(colours: Tensor, change: ColourMap) -> Tensor:
    """Colours `[1,3,h,w]` through a map of colours `[N,3]`, in 0..1."""
    flat = change(colours[0].flatten(1).T.double())
    return flat.T.reshape(colours.shape).clamp(0, 1).to(colours)
