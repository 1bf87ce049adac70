"""What every harmoniser is, whether a network of gigabytes or the small one that comes with the pack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor

from ..engine.errors import RegionStyleError, wrong_input
from ..engine.region.enlarged import SMEAR

# Steps done, steps in all, and the picture so far `[3,h,w]` in 0..1 or None. Raises when the user has cancelled.
OnStep = Callable[[int, int, "Tensor | None"], None]

COMFY_TYPE = "REGIONSTYLE_HARMONIZER"


@runtime_checkable
class Harmonizer(Protocol):
    """Gives a foreground the light and colours of its surroundings, or of a reference picture's region."""

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
        """Composite `[B,3,H,W]` in 0..1 and mask `[B,1,H,W]` in 0..1, 1 = foreground -> `[B,3,H,W]` in 0..1.

        Not yet pasted back: what it holds outside the mask is not used (`paste.paste_back`). reference `[1,3,h,w]` and
        reference_mask `[1,1,h,w]` in 0..1: the region whose light and colours the foreground is to have (without a
        mask all of the reference); default: what surrounds it in the composite. seed: of what it draws at random.
        """


@runtime_checkable
class WorksAtItsOwnSize(Protocol):
    """A harmoniser that shrinks what is larger, and enlarges its result."""

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width a picture of a height and width is worked on at."""


def enlarged_result(harmonizer: object, size: tuple[int, int]) -> str:
    """A line about a result of a height and width that was worked on much smaller; "" where it was not."""
    if not isinstance(harmonizer, WorksAtItsOwnSize):
        return ""
    height, width = harmonizer.working_size(size)
    times = max(size[0] / height, size[1] / width)
    if times <= SMEAR:
        return ""
    return (
        f"harmonised at {width} x {height} pixels and enlarged {times:.1f} times: light and colours are no finer than "
        "that, texture is the composite's. Raise resolution (0: the picture's own size)"
    )


def check_composite(composite: Tensor, mask: Tensor) -> None:
    """RegionStyleError unless the composite is `[B,3,H,W]` and the mask `[B,1,H,W]`, floating point, in 0..1."""
    check_picture(composite, "composite")
    check_region(mask, composite, "mask")


def check_picture(picture: Tensor, name: str) -> None:
    """RegionStyleError unless a picture is floating point `[B,3,H,W]` with finite values."""
    if not isinstance(picture, Tensor) or picture.ndim != 4 or picture.shape[1] != 3 or not picture.is_floating_point():
        raise wrong_input(name, _shape(picture), "a floating point picture [B,3,H,W] in 0..1", "Convert it first.")
    if not picture.numel():
        raise wrong_input(name, _shape(picture), "at least one pixel", "Load a picture.")
    low, high = (float(value) for value in picture.detach().float().aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # also NaN
        raise wrong_input(name, f"values {low:g}..{high:g}", "0..1", "Scale the picture, without NaN.")


def check_region(mask: Tensor, picture: Tensor, name: str) -> None:
    """RegionStyleError unless a mask is floating point `[B,1,H,W]` in 0..1 at the picture's size."""
    accepts = f"a floating point mask {[len(picture), 1, *picture.shape[-2:]]} in 0..1, as its picture is"
    wanted = (len(picture), 1, *picture.shape[-2:])
    if not isinstance(mask, Tensor) or tuple(mask.shape) != wanted or not mask.is_floating_point():
        raise wrong_input(name, _shape(mask), accepts, "Give one mask per picture, of its size.")
    low, high = (float(value) for value in mask.detach().float().aminmax())
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise wrong_input(name, f"values {low:g}..{high:g}", "0..1", "Scale the mask, without NaN.")


def check_has_surroundings(mask: Tensor) -> None:
    """RegionStyleError for a mask that leaves nothing outside: there is nothing to harmonise with."""
    for index, each in enumerate(mask):
        if not bool((each < 0.5).any()):
            raise nothing_outside(index)


def nothing_outside(index: int) -> RegionStyleError:
    """The error for a mask that covers its whole picture."""
    got = f"a mask that covers all of picture {index + 1}"
    return wrong_input("mask", got, "some background outside", "Mask the foreground only, or give a reference picture.")


def _shape(value: object) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
