"""What is optimised: a network that paints the picture, the picture's pixels, or its latent."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .style_network import StyleNetwork


class LatentCoder(Protocol):
    """An autoencoder whose decoder can be differentiated.

    factor: pixels per cell of the latent; patcher: ComfyUI's, None elsewhere.
    """

    @property
    def factor(self) -> int: ...

    @property
    def patcher(self) -> Any: ...

    def on(self, patcher: Any) -> LatentCoder:
        """The same on another patcher, which ComfyUI may demand for gradients."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents of images `[B,3,H,W]` in 0..1, whose sides are multiples of its factor."""

    def decode(self, latents: Tensor) -> Tensor:
        """Images `[B,3,H,W]` in 0..1."""


class Canvas(Protocol):
    """Something with parameters that shows a picture."""

    parameters: list[nn.Parameter]

    def render(self) -> Tensor:
        """The picture `[1,3,h,w]` in 0..1, differentiable in the parameters."""

    def keep_range(self) -> None:
        """Called after each step of the optimiser: puts back what has left the range of pictures."""


class NetworkCanvas:
    """The style network applied to one picture (LEAST, section 3.2)."""

    def __init__(self, network: StyleNetwork, source: Tensor) -> None:
        self.network, self._source = network, source
        self.parameters = list(network.parameters())

    def render(self) -> Tensor:
        painted: Tensor = self.network(self._source)
        return painted

    def keep_range(self) -> None:
        """The network ends in a sigmoid."""


class PixelCanvas:
    """The pixels themselves."""

    def __init__(self, start: Tensor) -> None:
        self.parameters = [nn.Parameter(start.detach().clone())]

    def render(self) -> Tensor:
        # a view of its own: what is done to the result must not be done to the parameter
        return self.parameters[0] * 1

    @torch.no_grad()
    def keep_range(self) -> None:
        self.parameters[0].clamp_(0, 1)


class LatentCanvas:
    """The latent of an autoencoder."""

    def __init__(self, coder: LatentCoder, start: Tensor) -> None:
        with torch.no_grad():
            latent = coder.encode(start)
        self._coder, self.parameters = coder, [nn.Parameter(latent.detach().clone())]

    def render(self) -> Tensor:
        return self._coder.decode(self.parameters[0])

    def keep_range(self) -> None:
        """A latent has no range."""
