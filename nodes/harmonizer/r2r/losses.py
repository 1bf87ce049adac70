"""R2R's training losses: contrastive on features of the foreground, and the noise's error inside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ...engine.errors import wrong_input

CONTRAST = 0.3  # weight of the contrastive term beside the L1 error
SMALLEST = 1e-8
VGG_LAYERS = 23  # up to and with the ReLU after conv4_3: 512 channels, stride 8
VGG_FILE = "vgg16-397923af.pth"  # torchvision's ImageNet weights


@dataclass(frozen=True)
class Features:
    """of: pictures `[B,3,H,W]` in -1..1 -> one feature map, differentiable; name: what the output calls it."""

    of: Callable[[Tensor], Tensor]
    name: str


def vgg_features(path: Path, device: torch.device | str = "cpu") -> Features:
    """torchvision's VGG16, ImageNet weights, from their file; the pictures are not normalised, as published.

    RegionStyleError for a file that holds something else.
    """
    from torchvision.models import vgg16

    from .weights import read_tensors

    state = {name.removeprefix("features."): tensor for name, tensor in read_tensors(path).items()}
    with torch.device("meta"):  # its classifier alone is half a gigabyte, and not needed
        layers = nn.Sequential(*vgg16(weights=None).features[:VGG_LAYERS])
    wanted = layers.state_dict()
    if any(name not in state or state[name].shape != wanted[name].shape for name in wanted):
        raise wrong_input("VGG16", path.name, f"torchvision's {VGG_FILE}", "Download it from download.pytorch.org.")
    layers.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return Features(layers.to(device).eval().requires_grad_(False), "VGG16")


def contrastive_loss(features: Features, result: Tensor, real: Tensor, composite: Tensor, mask: Tensor) -> Tensor:
    """d(result, real) / (d(result, real) + d(result, composite) + 1e-8), d the mean absolute difference of features.

    Pictures `[B,3,H,W]` in -1..1, mask `[B,1,H,W]` 0 or 1: what is outside it is 0, mid-grey. In 0..1: 0 where the
    result's foreground is the real one, about 0.5 where it is as far from both.
    """
    anchor = features.of(result * mask)
    with torch.no_grad():
        positive, negative = features.of(real * mask), features.of(composite * mask)
    near, far = (anchor - positive).abs().mean(), (anchor - negative).abs().mean()
    return near / (near + far + SMALLEST)


def reconstruction_loss(
    features: Features, result: Tensor, real: Tensor, composite: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """The Clear-VAE's loss: mean absolute error of the whole picture, and the contrastive term, to be added with the
    weight `CONTRAST`."""
    return (result - real).abs().mean(), contrastive_loss(features, result, real, composite, mask)


def foreground_noise_loss(predicted: Tensor, noise: Tensor, mask: Tensor) -> Tensor:
    """Squared error of the noise `[B,4,h,w]` inside the mask `[B,1,h,w]`, 0 or 1.

    Per sample and channel the mean over all positions, times clamp(positions / foreground, 1, 5); then the mean. An
    empty mask gives 0.
    """
    error = ((mask * predicted - mask * noise) ** 2).mean((2, 3))
    share = mask.mean((1, 2, 3))
    weight = (1 / share.clamp_min(SMALLEST)).clamp(1, 5)
    return (error * weight[:, None]).mean()


def draw_timesteps(count: int, random: torch.Generator) -> Tensor:
    """Timesteps `[count]` int64: with probability 0.3 uniform in 0..499, else uniform in 0..999."""
    low = torch.rand(count, generator=random) < 0.3
    anywhere = torch.randint(1000, (count,), generator=random)
    lower_half = torch.randint(500, (count,), generator=random)
    return torch.where(low, lower_half, anywhere)
