"""Checks of pictures and masks at the border of the slice."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..engine.errors import wrong_input


def check_images(images: Tensor, name: str = "images") -> Tensor:
    """Images `[B,3,H,W]` in 0..1 as they are; RegionStyleError for another shape, an empty batch, NaN or a range."""
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise wrong_input(name, f"shape {list(images.shape)}", "[B,3,H,W]", "Pass one or more colour pictures.")
    low, high = float(images.min()), float(images.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also true for NaN
        raise wrong_input(name, f"values {low:.4g}..{high:.4g}", "0..1", "Scale the pictures to 0..1.")
    return images


def check_pair(result: Tensor, source: Tensor) -> None:
    """Two batches of one shape."""
    check_images(result, "result")
    check_images(source, "source")
    if result.shape != source.shape:
        got = f"{list(result.shape)} and {list(source.shape)}"
        raise wrong_input("result and source", got, "the same shape", "Resize the result to the source's size.")


def check_mask(mask: Tensor, images: Tensor) -> Tensor:
    """A mask `[B,H,W]` (or `[H,W]`, then for every picture) in 0..1, float, on the images' device."""
    mask = mask[None].expand(len(images), -1, -1) if mask.ndim == 2 else mask
    wanted = (len(images), *images.shape[-2:])
    if tuple(mask.shape) != wanted:
        raise wrong_input("mask", f"shape {list(mask.shape)}", f"{list(wanted)}", "Give a mask of the pictures' size.")
    mask = mask.to(images.device, torch.float64 if images.dtype == torch.float64 else torch.float32)
    check_mask_values(mask)
    return mask


def check_mask_values(mask: Tensor, name: str = "mask") -> None:
    """Every value in 0..1, none NaN."""
    low, high = float(mask.min()), float(mask.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise wrong_input(name, f"values {low:.4g}..{high:.4g}", "0..1", "Scale the mask: 1 = the region.")


def check_one_each(words: Sequence[str], images: Tensor, name: str) -> None:
    """As many words as pictures, none of them empty."""
    if len(words) != len(images):
        raise wrong_input(name, f"{len(words)}", f"one per picture ({len(images)})", "Repeat the words.")
    if empty := [i for i, word in enumerate(words) if not word.strip()]:
        raise wrong_input(name, f"nothing for picture {empty[0]}", "words for every picture", "Name the style.")


def check_not_empty(mask: Tensor, side: str) -> None:
    """Every mask of `[B,H,W]` has some area. side: what the mask stands for, "region" or "background"."""
    empty = (mask.flatten(1).sum(1) == 0).nonzero().flatten().tolist()
    if empty:
        got = f"no {side} in picture {', '.join(map(str, empty[:8]))}"
        raise wrong_input("mask", got, f"some {side} in every picture", "Leave these pictures out of this measure.")
