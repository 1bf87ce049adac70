"""Small random networks for local CLIP style, in any dtype."""

import hashlib

import torch
from torch import nn

from regionstyle.nodes.local_clip.networks import LocalClipNetworks


class SmallTowers:
    name, size, source = "small CLIP", 16, "a Photo"
    templates = ("a {}", "{} seen from near")

    def __init__(self, dtype=torch.float32):
        torch.manual_seed(5)
        layers = nn.Conv2d(3, 8, 5, stride=3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 16, 12)
        self.image = nn.Sequential(*layers).requires_grad_(False).to(dtype)
        self.modules = (self.image,)

    def embed_images(self, images):
        return self.image(images - 0.5)

    def embed_texts(self, texts):
        seeds = (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in texts)
        rows = [torch.randn(12, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self.image[0].weight)


class SmallContent:
    name, size = "small features", 24

    def __init__(self, dtype=torch.float32):
        torch.manual_seed(6)
        self.first, self.second = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 6, 3, stride=2)
        self.modules = (self.first.requires_grad_(False).to(dtype), self.second.requires_grad_(False).to(dtype))

    def maps(self, images, *, rectified):
        first = self.first(images)
        second = self.second(first.relu())
        return [first.relu(), second.relu()] if rectified else [first, second]


def small_networks(dtype=torch.float32):
    return LocalClipNetworks(SmallTowers(dtype), SmallContent(dtype), native=32)
