"""The constant kernels that published Clear-VAE files hold beside the filters' weights: checked, and written again.

Each of the twelve filters has eight, `[C,1,3,3]` in float16, the same for all its channels (R2R, arXiv:2508.09746).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from ....kernels.filters import _BANK, _STEP
from ...engine.errors import wrong_input

# In the order of their weights alpha.
NAMES = ("Sobel_x", "Sobel_y", "Laplation", "Edge", "Sobel_xy", "Sobel_yx", "Roberts_x", "Roberts_y")
_NAME = re.compile(rf"filters\.(\d+)\.({'|'.join(NAMES)})")


def without_kernels(state: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """The tensors without the constant kernels. RegionStyleError where one holds other numbers than it should: its
    filter could not be folded."""
    rest = {}
    for name, tensor in state.items():
        found = _NAME.fullmatch(name)
        if found is None:
            rest[name] = tensor
        elif not _is_kernel(tensor, found[2]):
            got = f"{file} with other numbers in {name}"
            raise wrong_input("Clear-VAE", got, "the published filter kernels", "Use the file as it was published.")
    return rest


def kernels(channels: list[int]) -> dict[str, Tensor]:
    """All of them by name; channels: of the filters, in their order."""
    return {
        f"filters.{i}.{name}": kernel_of(name).half().expand(count, 1, 3, 3).clone()
        for i, count in enumerate(channels)
        for name in NAMES
    }


def kernel_of(name: str) -> Tensor:
    """`[3,3]`, float64."""
    return (_STEP * torch.tensor(_BANK[NAMES.index(name)], dtype=torch.float64)).view(3, 3)


def _is_kernel(tensor: Tensor, name: str) -> bool:
    if tensor.shape[-2:] != (3, 3) or tensor.is_meta:
        return tensor.is_meta
    return bool((tensor.double() - kernel_of(name)).abs().max() < 1e-5)
