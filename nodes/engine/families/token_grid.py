"""Rows and columns of the image tokens inside a network."""

from __future__ import annotations

from ..errors import RegionStyleError

Size = tuple[int, int]


def token_grid(latent: Size | None, tokens: int) -> Size:
    """Rows and columns of `tokens` image tokens in a network that has halved the latent, rounding up, some times.

    RegionStyleError when no halving gives that many.
    """
    size, last = latent, None
    while size is not None and size != last:
        if size[0] * size[1] == tokens:
            return size
        size, last = (-(-size[0] // 2), -(-size[1] // 2)), size
    shown = "unknown" if latent is None else f"{latent[0]}x{latent[1]}"
    raise RegionStyleError(
        f"image tokens: got {tokens} for a latent of size {shown}, expected the latent's size halved some times. "
        "A patch that merges or tiles tokens cannot be combined with masks or attention maps: switch it off."
    )
