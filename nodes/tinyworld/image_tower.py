"""The image tower of the tiny CLIP: a small residual convolutional network.

Convolutions, because shapes, colours and filter textures are learnt by them from few pictures; a patch
transformer of this size needs far more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions with group normalisation around a shortcut; `[B,I,H,W] -> [B,O,H/s,W/s]`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(inner + self.shortcut(x))


class ImageTower(nn.Module):
    """Images `[B,3,H,W]` in 0..1 (trained at 128 px) to embeddings `[B,width]`, not normalised.

    `features(x)` returns the list of stage outputs, which stand in for a perceptual network.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 5, stride=2, padding=2)
        sizes = [(32, 48), (48, 96), (96, 128), (128, 192)]
        self.stages = nn.ModuleList([Residual(i, o, 2) for i, o in sizes])
        self.projection = nn.Linear(2 * sizes[-1][1], width)

    def features(self, x: Tensor) -> list[Tensor]:
        x, stages = F.relu(self.stem(x * 2 - 1)), []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        return stages

    def forward(self, x: Tensor) -> Tensor:
        last = self.features(x)[-1]
        # mean and maximum: how much of a texture there is, and whether a shape is there at all
        return self.projection(torch.cat([last.mean((2, 3)), last.amax((2, 3))], 1))
