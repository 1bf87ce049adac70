"""The two areas whose colours are compared: pixels with weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.errors import RegionStyleError, wrong_input
from ..base import check_picture, check_region

FEWEST = 16.0  # pixels, in sums of mask values: of fewer, statistics are chance
SLIGHT = 0.01  # weights up to here are left out: a feather's last trace is no part of a thing


@dataclass(frozen=True)
class Area:
    """Colours `[N,3]` in float64 with their weights `[N]`, above 0, of sum 1."""

    colours: Tensor
    weights: Tensor

    def mean(self) -> Tensor:
        """The weighted mean `[3]`."""
        return self.weights @ self.colours

    def covariance(self) -> Tensor:
        """The weighted covariance `[3,3]`."""
        centred = self.colours - self.mean()
        return (centred * self.weights[:, None]).T @ centred

    def deviation(self) -> Tensor:
        """The weighted standard deviation of each channel `[3]`."""
        return self.covariance().diagonal().clamp_min(0).sqrt()


def area(picture: Tensor, weight: Tensor, name: str, inside: bool = True) -> Area:
    """The pixels of a picture `[3,H,W]` by a soft mask `[1,H,W]`: its inside, or what is outside.

    RegionStyleError when fewer than `FEWEST` pixels are left: an empty or tiny mask, or one that covers everything.
    """
    share = (weight if inside else 1 - weight).flatten().double()
    share = torch.where(share > SLIGHT, share, 0)
    total = float(share.sum())
    if total < FEWEST:
        raise too_few(name, total, inside)
    used = share > 0
    return Area(picture.flatten(1).T[used].double(), share[used] / total)


def too_few(name: str, total: float, inside: bool) -> RegionStyleError:
    """The error for an area without enough pixels; name: of the mask."""
    where = "inside" if inside else "outside"
    remedy = "Mark the foreground, white." if inside else "Mask the foreground only, or give a reference picture."
    return wrong_input(name, f"{total:.3g} pixels {where} it", f"at least {FEWEST:g} pixels {where}", remedy)


def goal_area(composite: Tensor, mask: Tensor, reference: Tensor | None, reference_mask: Tensor | None) -> Area:
    """The pixels whose statistics the foreground is to have: the background `[3,H,W]`, or the reference's region."""
    if reference is None:
        return area(composite, mask, "mask", inside=False)
    weight = torch.ones_like(reference[:1]) if reference_mask is None else reference_mask
    return area(reference, weight, "reference_mask")


def check_reference(reference: Tensor | None, reference_mask: Tensor | None, count: int) -> None:
    """RegionStyleError unless a reference is one picture, or one for each of `count`, with a fitting mask or none."""
    if reference is None:
        if reference_mask is not None:
            raise wrong_input("reference_mask", "a mask", "it with a reference", "Give the reference picture as well.")
        return
    check_picture(reference, "reference")
    if len(reference) not in (1, count):
        accepts = f"1 picture, or {count}, one for each composite"
        raise wrong_input("reference", f"{len(reference)} pictures", accepts, "Give one reference.")
    if reference_mask is not None:
        check_region(reference_mask, reference, "reference_mask")


def check_no_reference(method: str, reference: Tensor | None, reference_mask: Tensor | None) -> None:
    """RegionStyleError when a reference is given to a method that has no use for one."""
    for name, value in (("reference", reference), ("reference_mask", reference_mask)):
        if value is not None:
            raise wrong_input(name, f"one with {method}", "none", f"{method} looks at the border only: take it off.")
