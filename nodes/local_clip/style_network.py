"""The style network f: a small U-Net that is optimised anew for every picture (CLIPstyler and LEAST, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64)
BOTTLENECK = 128
GRID = 8  # three halvings


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance normalisation beside a 1x1 convolution; `down` halves what it gives on."""

    def __init__(self, inputs: int, outputs: int, *, down: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.InstanceNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.InstanceNorm2d(outputs),
            nn.ReLU(inplace=True),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1)
        if down:
            self.downsample = nn.Conv2d(outputs, outputs, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.conv(x) + self.skip(x)
        return mixed


class StyleNetwork(nn.Module):
    """Pictures `[B,3,H,W]`, H and W multiples of 8, to pictures of the same size in 0..1; 615,267 parameters.

    Names of the layers are those of the published networks, so that a shared initial file can be read.
    """

    def __init__(self) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.conv_init = nn.Conv2d(3, first, 1)
        self.init = ResidualBlock(first, first)
        self.down1 = ResidualBlock(first, first, down=True)
        self.down2 = ResidualBlock(first, second, down=True)
        self.down3 = ResidualBlock(second, third, down=True)
        self.encoding = ResidualBlock(third, BOTTLENECK)
        self.up3 = ResidualBlock(BOTTLENECK + third, third)
        self.up2 = ResidualBlock(third + second, second)
        self.up1 = ResidualBlock(second + first, first)
        self.out = ResidualBlock(2 * first, first)
        self.conv_fin = nn.Conv2d(first, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.init(self.conv_init(x))
        x, kept = first, []
        for block in (self.down1, self.down2, self.down3):
            kept.append(block(x))
            x = block.downsample(kept[-1])
        x = self.encoding(x)
        for block, skip in zip((self.up3, self.up2, self.up1), reversed(kept), strict=True):
            larger = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([larger, skip], 1))
        return torch.sigmoid(self.conv_fin(self.out(torch.cat([x, first], 1))))


def new_style_network(seed: int) -> StyleNetwork:
    """A network of torch's usual random weights; the same seed gives the same weights, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleNetwork()
