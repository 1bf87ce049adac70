"""The networks of feed-forward SMS: a picture in, the same picture in one style out, in one pass and at any size.

The paper (arXiv 2503.07601, section on distillation) gives the size, about 43 MB, and no architecture. "residual" is
the residual encoder-decoder of Johnson et al. (ECCV 2016) and CycleGAN (ICCV 2017) with nine blocks, which has that
size. "tiny" is the same at a tenth of it. Both differ from those works in three points:

- no instance normalisation: it looks at the whole picture, so a picture in tiles would not equal the whole one;
- the network's output is a change, added to the picture; the last layer starts small, so training starts from
  a picture that is recognisable;
- upsampling by repetition and a convolution, which leaves no checkerboard.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.errors import wrong_input

EDGE = 7  # side of the first and the last convolution, in pixels


@dataclass(frozen=True)
class Architecture:
    """widths: channels at full size and after each halving; blocks: residual blocks at the smallest size."""

    widths: tuple[int, ...]
    blocks: int

    @property
    def stride(self) -> int:
        """Pictures are worked on in multiples of this many pixels."""
        return 2 ** (len(self.widths) - 1)

    @property
    def radius(self) -> int:
        """No pixel of the result depends on a pixel further away than this, in rows or columns."""
        halvings = range(len(self.widths) - 1)
        down = sum(2**level for level in halvings)  # 3x3, one step each side, at the size before the halving
        blocks = 2 * self.blocks * self.stride
        # repetition reads up to stride - 1 pixels back, and each 3x3 after it one step at its own size
        up = sum(2**level for level in halvings) + self.stride - 1
        return 2 * (EDGE // 2) + down + blocks + up


ARCHITECTURES = {
    "residual": Architecture((64, 128, 256), 9),  # 11.4 million parameters, 45.5 MB in float32
    "tiny": Architecture((24, 48, 96), 5),  # 0.94 million parameters, 1.9 MB in float16
}


def architecture(name: str) -> Architecture:
    """The architecture of a name. RegionStyleError listing them."""
    if name not in ARCHITECTURES:
        accepts = f"one of {', '.join(ARCHITECTURES)}"
        raise wrong_input("architecture", repr(name), accepts, "'residual' is the paper's size, 'tiny' a tenth of it.")
    return ARCHITECTURES[name]


class _Block(nn.Module):
    """Two 3x3 convolutions added to their input; nothing is added at first, which replaces normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class Generator(nn.Module):
    """Images `[B,3,H,W]` in 0..1, H and W multiples of the stride -> images of the same size, not clamped.

    Fully convolutional; edges are repeated outwards. name: key of `ARCHITECTURES`.
    """

    def __init__(self, name: str) -> None:
        """RegionStyleError for an unknown name."""
        super().__init__()
        self.name, self.architecture = name, architecture(name)
        widths = self.architecture.widths
        self.head = _conv(3, widths[0], EDGE)
        self.down = nn.ModuleList(_conv(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.blocks = nn.ModuleList(_Block(widths[-1]) for _ in range(self.architecture.blocks))
        self.up = nn.ModuleList(_conv(b, a) for a, b in reversed(list(zip(widths, widths[1:], strict=False))))
        self.tail = _conv(widths[0], 3, EDGE)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.head(images - 0.5))
        for layer in self.down:
            x = F.relu(layer(x))
        for block in self.blocks:
            x = block(x)
        for layer in self.up:
            x = F.relu(layer(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return images + self.tail(x)


def new_generator(name: str, seed: int = 0) -> Generator:
    """An untrained generator on the CPU, the same for the same seed; torch's global random state is not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Generator(name)


def _conv(inputs: int, outputs: int, side: int = 3, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, side, stride, side // 2, padding_mode="replicate")
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv
