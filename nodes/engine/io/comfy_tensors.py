"""ComfyUI's tensors and ours: the one door.

IMAGE `[B,H,W,3]` in 0..1 <-> images `[B,3,H,W]`; MASK `[H,W]` or `[B,H,W]`, any size, one or one per image ->
masks `[B,H,W]` at the images' size. Nothing given is changed in place.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ..errors import wrong_input


def images_of(image: Tensor) -> Tensor:
    """An IMAGE as `[B,3,H,W]`; an alpha channel is cut off, since it is no colour."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise wrong_input("image", f"shape {list(image.shape)}", "an IMAGE [B,H,W,3]", "Connect an image output.")
    return image[..., :3].movedim(-1, 1).contiguous()


def image_of(images: Tensor) -> Tensor:
    """Images `[B,3,H,W]` as an IMAGE, on the CPU, float32."""
    return images.movedim(1, -1).contiguous().float().cpu()


def check_numbers(mask: Tensor, name: str = "mask") -> None:
    """RegionStyleError for a MASK with values that are no numbers (NaN), which no clamp removes."""
    if bool(mask.isnan().any()):
        raise wrong_input(name, "values that are no numbers (NaN)", "numbers from 0 to 1", "Repair what makes it.")


def masks_of(mask: Tensor, images: Tensor) -> Tensor:
    """A MASK as `[B,H,W]` at the size of images `[B,3,H,W]`: resized if it has another size, repeated if it is one.

    RegionStyleError when it holds a number of masks other than 1 or B.
    """
    mask = mask[None] if mask.ndim == 2 else mask
    mask = mask[..., 0] if mask.ndim == 4 and mask.shape[-1] == 1 else mask
    if mask.ndim != 3 or len(mask) not in (1, len(images)):
        accepts = f"one mask or one per image ({len(images)}), [B,H,W]"
        raise wrong_input("mask", f"shape {list(mask.shape)}", accepts, "Repeat or select masks to match the images.")
    check_numbers(mask)
    if mask.shape[-2:] != images.shape[-2:]:
        mask = F.interpolate(mask[:, None].float(), images.shape[-2:], mode="bilinear", antialias=True)[:, 0]
    return mask.float().clamp(0, 1).to(images.device).expand(len(images), -1, -1)
