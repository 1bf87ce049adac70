"""Pictures and masks of the Python API: what a caller may give, and results in the same kind.

Inside, a picture is `[1,3,H,W]` float32 in 0..1 and a mask `[H,W]`. Outside the mask a result holds the very values
that were given.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..engine.errors import wrong_input
from ..engine.io.picture_modes import FULL
from ..engine.io.pictures import Picture, decoded, read_picture
from .picture_files import edited_values
from .pictures import to_bytes, whole_steps

if TYPE_CHECKING:
    from PIL.Image import Image

ACCEPTED = (
    "a path, a PIL image, a numpy array [H,W,3] (uint8, or floating point in 0..1), or a torch tensor [H,W,3] or "
    "[1,H,W,3] of the same"
)
MASKS = "a path, a PIL image, or an array or tensor [H,W] (bool, uint8, or floating point in 0..1)"


@dataclass(frozen=True)
class GivenImage:
    """image `[1,3,H,W]` in 0..1; returned: (image `[1,3,H,W]`, mask `[1,H,W]`) -> both in the kind that was given;
    opacity `[H,W]` in 0..1, None: opaque."""

    image: Tensor
    returned: Callable[[Tensor, Tensor], tuple[Any, Any]]
    opacity: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])


def given_image(image: Any, name: str = "image") -> GivenImage:
    """A caller's picture; name: what errors call it. RegionStyleError for any other kind, shape, type of number, or
    range."""
    if isinstance(image, (str, os.PathLike)):
        return _of_picture(read_picture(Path(image), name))
    if isinstance(image, np.ndarray):
        return _of_array(image, name)
    if isinstance(image, Tensor):
        return _of_tensor(image, name)
    if is_pil(image):
        return _of_picture(decoded(image, name))
    raise wrong_input(name, f"a {type(image).__name__}", ACCEPTED, "Convert it first.")


def given_mask(mask: Any, size: tuple[int, int]) -> Tensor:
    """A caller's mask `[H,W]` in 0..1, 1 = change. RegionStyleError unless it is of the picture's size (H, W)."""
    if isinstance(mask, (str, os.PathLike)):
        mask = read_picture(Path(mask), "mask", size).mask
    if is_pil(mask):
        mask = decoded(mask, "mask").mask
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(mask.copy())
    if not isinstance(mask, Tensor):
        raise wrong_input("mask", f"a {type(mask).__name__}", MASKS, "Convert it first.")
    mask = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
    if tuple(mask.shape) != size:
        accepts = f"[{size[0]}, {size[1]}], the picture's height and width"
        raise wrong_input("mask", list(mask.shape), accepts, "Give the mask at the picture's size.")
    return mask.float() if mask.dtype == torch.bool else _in_range("mask", mask, MASKS)


def is_pil(value: Any) -> bool:
    """Whether a value is a PIL image."""
    from PIL.Image import Image

    return isinstance(value, Image)


def _in_range(name: str, values: Tensor, accepts: str) -> Tensor:
    """uint8, or floating point in 0..1, as float32 on the CPU."""
    values = values.detach().cpu()
    if not values.numel():
        raise wrong_input(name, "no values", accepts, "Give at least one pixel.")
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.is_floating_point():
        raise wrong_input(name, f"numbers of type {values.dtype}", accepts, "Convert them first.")
    values = values.float()
    if not bool(((values >= 0) & (values <= 1)).all()):
        got = f"values from {float(values.min()):g} to {float(values.max()):g}"
        raise wrong_input(name, got, accepts, "Scale them to 0..1.")
    return values


def _of_array(array: np.ndarray, name: str) -> GivenImage:
    if array.ndim != 3 or array.shape[-1] != 3:
        raise wrong_input(name, f"an array {list(array.shape)}", ACCEPTED, "Put the colours last.")
    try:
        values = torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise wrong_input(name, f"numbers of type {array.dtype}", ACCEPTED, "Convert them first.") from None
    given = _in_range(name, values, ACCEPTED)

    def returned(image: Tensor, mask: Tensor) -> tuple[np.ndarray, np.ndarray]:
        return _kept(values, image, mask).numpy(), mask[0].numpy()

    return GivenImage(given.permute(2, 0, 1)[None], returned)


def _of_tensor(tensor: Tensor, name: str) -> GivenImage:
    picture = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
    if picture.ndim != 3 or picture.shape[-1] != 3:
        remedy = "Put the colours last: image.permute(1, 2, 0). One picture at a time."
        raise wrong_input(name, f"a tensor {list(tensor.shape)}", ACCEPTED, remedy)
    given = _in_range(name, picture, ACCEPTED)

    def returned(image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        result = _kept(picture.detach(), image, mask)
        return result.reshape(tensor.shape), (mask if tensor.ndim == 4 else mask[0]).to(tensor.device)

    return GivenImage(given.permute(2, 0, 1)[None], returned)


def _kept(given: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """The result `[H,W,3]` in the type and on the device of what was given, whose values stay where the mask is 0."""
    painted = image[0].permute(1, 2, 0).float().cpu().clamp(0, 1)
    if given.dtype == torch.uint8:
        painted = (painted * 255).round()
    inside = (mask[0] > 0)[..., None].to(given.device)
    return torch.where(inside, painted.to(given), given).clone()


def _of_picture(given: Picture) -> GivenImage:
    """A picture of any mode; its result has 8 bits, and transparency, profile and EXIF as they were."""

    def returned(image: Tensor, mask: Tensor) -> tuple[Image, Image]:
        from PIL import Image as pil

        values = _eight_bits(edited_values(given, image, mask[0]))
        result = pil.fromarray(values if values.ndim == 3 else np.repeat(values[..., None], 3, -1))
        if given.alpha is not None:
            result.putalpha(pil.fromarray(_eight_bits(given.alpha)))
        told = {"icc_profile": None if given.grey else given.profile, "exif": given.exif}
        result.info.update({name: value for name, value in told.items() if value})
        return result, pil.fromarray(to_bytes(whole_steps(mask[0])))

    return GivenImage(given.image, returned, given.opacity)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    share = values.astype(np.float64) / FULL[values.dtype.name]
    return values if values.dtype == np.uint8 else (share * 255).round().astype(np.uint8)
