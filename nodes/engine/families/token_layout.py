"""Where text and image tokens lie in one forward pass of a network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import RegionStyleError
from .token_grid import Size, token_grid


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one forward pass.

    grids: rows and columns of the picture's tokens, then of those of reference pictures, in their order. text: number
    of text tokens in a joint attention, which stand before the image tokens wherever both are in one row. halves:
    deeper layers have grids halved some times (U-Nets).
    """

    grids: tuple[Size, ...]
    text: int = 0
    halves: bool = False

    def image(self, tokens: int) -> tuple[Size, ...]:
        """The grids of a layer with so many image tokens; RegionStyleError when they do not fit."""
        if self.halves:
            return (token_grid(self.grids[0], tokens),)
        expected = sum(height * width for height, width in self.grids)
        if tokens != expected:
            raise RegionStyleError(
                f"image tokens: got {tokens}, expected {expected} ({_shown(self.grids)}). A patch that adds, merges "
                "or drops tokens cannot be combined with masks: switch it off, or use numbers as gates."
            )
        return self.grids

    def joint(self, tokens: int) -> tuple[int, tuple[Size, ...]]:
        """Text tokens and image grids of a layer that has both in one row; RegionStyleError as above."""
        return self.text, self.image(tokens - self.text)


def bound(network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward pass by name, those that `forward` takes as `**kwargs` among them."""
    given = inspect.signature(type(network).forward).bind_partial(network, *args, **kwargs).arguments
    return {**given, **given.get("kwargs", {})}


def latent_size(latent: Tensor) -> Size:
    """Height and width of a latent `[B,C,h,w]`."""
    return latent.shape[-2], latent.shape[-1]


def patched(size: Size, patch: int) -> Size:
    """Rows and columns of patch x patch tokens that cover a latent of this size, rounded up."""
    return -(-size[0] // patch), -(-size[1] // patch)


def _shown(grids: Sequence[Size]) -> str:
    return " + ".join(f"{height}x{width}" for height, width in grids)
