"""The published networks of LPIPS, FID, CFSD, CLIP, PickScore and HPSv2, read from a folder of the user's.

Nothing is fetched: a missing library or file is one error that names it. Licences, none of them non-commercial:
`lpips` (learnt weights) BSD-2, torchvision's AlexNet, VGG-16 and VGG-19 BSD-3, `pytorch-fid` with its Inception
weights Apache-2.0, OpenAI's CLIP MIT, PickScore's repository MIT, HPS v2 Apache-2.0. Files are read as tensors only
(`weights_only`). Each function imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.public_networks import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION,
    VGG19_FILE,
    Parts,
    clip_parts,
    filled,
    read_tensors,
    weights_file,
)
from ..distributions import Embed
from ..structure import FeatureMap
from .perceptual import PerceptualDistance

LPIPS_SHIFT, LPIPS_SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in -1..1


@dataclass(frozen=True)
class _Trunk:
    """A torchvision network: its builder, its public file, and the layers that LPIPS reads (rectified convolutions)."""

    builder: str
    file: str
    layers: tuple[int, ...]


TRUNKS = {
    "alex": _Trunk("alexnet", "alexnet-owt-7be5be79.pth", (1, 4, 7, 9, 11)),
    "vgg": _Trunk("vgg16", "vgg16-397923af.pth", (3, 8, 15, 22, 29)),
}
RELU3_1 = 11
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_URL = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"


def require(library: str, package: str) -> Path:
    """Where an installed library lies; it is not imported. RegionStyleError with the command when it is missing."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise RegionStyleError(
            f"metrics: the Python package {package!r} is missing, which this number needs. Install it with: "
            'pip install "regionstyle[metrics]"'
        )
    return Path(spec.origin).parent


def _vision(builder: str, folder: Path, file: str) -> Any:
    """The convolutional part of a torchvision network with its published ImageNet weights."""
    require("torchvision", "torchvision")
    path = weights_file(folder, file, TORCHVISION)
    import torchvision.models

    return filled(getattr(torchvision.models, builder)(weights=None), path).features


def _constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _taps(features: nn.Sequential, layers: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """The outputs after some layers; nothing later overwrites them, whatever a layer does in place."""
    activations = []
    for index, layer in enumerate(features):
        x = layer(x)
        if index in layers:
            activations.append(x.clone())
        if index == max(layers):
            break
    return activations


def load_lpips(folder: Path, network: str = "alex", device: torch.device | str = "cpu") -> PerceptualDistance:
    """LPIPS version 0.1 with its learnt weights; network "alex" (the usual one) or "vgg"; pixels -1..1 inside."""
    if network not in TRUNKS:
        raise wrong_input("LPIPS network", repr(network), ", ".join(TRUNKS), "Choose one of these.")
    library, trunk = require("lpips", "lpips"), TRUNKS[network]
    features = _vision(trunk.builder, folder, trunk.file).to(device)
    learnt = read_tensors(library / "weights" / "v0.1" / f"{network}.pth")
    weights = [learnt[f"lin{i}.model.1.weight"].flatten().to(device) for i in range(len(trunk.layers))]

    def read(images: Tensor) -> list[Tensor]:
        x = images.to(device) * 2 - 1
        return _taps(features, trunk.layers, (x - _constant(LPIPS_SHIFT, x)) / _constant(LPIPS_SCALE, x))

    return PerceptualDistance(read, f"LPIPS 0.1 {network}", weights)


def load_cfsd_features(folder: Path, device: torch.device | str = "cpu") -> FeatureMap:
    """The rectified conv3_1 of VGG-19, ImageNet-normalised, that CFSD is published with."""
    features = _vision("vgg19", folder, VGG19_FILE).to(device)

    def read(images: Tensor) -> Tensor:
        x = images.to(device)
        return _taps(features, (RELU3_1,), (x - _constant(IMAGENET_MEAN, x)) / _constant(IMAGENET_STD, x))[0]

    return read


def load_fid_features(folder: Path, device: torch.device | str = "cpu") -> Embed:
    """FID's Inception v3, pool3, `[B,2048]`; images are resized to 299 x 299 as `pytorch-fid` does."""
    require("pytorch_fid", "pytorch-fid")
    path = weights_file(folder, INCEPTION_FILE, INCEPTION_URL)
    network = filled(_inception(), path).to(device)
    network.fc = nn.Identity()

    def embed(images: Tensor) -> Tensor:
        x = F.interpolate(images.to(device), (299, 299), mode="bilinear", align_corners=False)
        return network(2 * x - 1)

    return embed


def _inception() -> nn.Module:
    """torchvision's Inception v3 with the blocks `pytorch-fid` replaces, without the download its own builder does."""
    from pytorch_fid import inception as fid
    from torchvision.models import inception_v3

    network = inception_v3(num_classes=1008, aux_logits=False, weights=None, init_weights=False)
    for name, width in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
        inputs = {"Mixed_5b": 192, "Mixed_5c": 256, "Mixed_5d": 288}[name]
        setattr(network, name, fid.FIDInceptionA(inputs, pool_features=width))
    for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        setattr(network, name, fid.FIDInceptionC(768, channels_7x7=width))
    network.Mixed_7b, network.Mixed_7c = fid.FIDInceptionE_1(1280), fid.FIDInceptionE_2(2048)
    return network


class ClipTowers:
    """A CLIP in a folder as a score: OpenAI's CLIP and PickScore as `transformers` keeps them, HPS v2 as published.

    HPS v2's folder holds the published `HPS_v2*.pt` (ViT-H/14) and CLIP's `vocab.json` and `merges.txt`. backbone: the
    folder's name. Pictures: shorter side to the network's size (bicubic, antialiased), centre cut out, normalised, as
    the published processors do; `squash` resizes both sides instead.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu", *, squash: bool = False) -> None:
        folder = Path(folder)
        published = sorted(folder.glob("HPS_v2*.pt"))
        parts = _hps_parts(folder, published[0]) if published else clip_parts(folder)
        model, self._tokenizer, self._mean, self._std = parts
        self._model: Any = model.to(device)
        self.backbone = folder.name
        self._size = int(self._model.config.vision_config.image_size)
        self._device, self._squash = device, squash
        self.scale = float(self._model.logit_scale.detach().exp())

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit embeddings `[B,D]` of images `[B,3,H,W]` in 0..1."""
        x = self._fitted(images.to(self._device).float())
        x = (x - _constant(self._mean, x)) / _constant(self._std, x)
        pooled = self._model.vision_model(pixel_values=x).pooler_output
        return F.normalize(self._model.visual_projection(pooled), dim=-1)

    def _fitted(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        scale = self._size / min(height, width)
        size = (max(self._size, int(height * scale)), max(self._size, int(width * scale)))
        size = (self._size, self._size) if self._squash else size
        x = F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - self._size) // 2, (size[1] - self._size) // 2
        return x[..., top : top + self._size, left : left + self._size]

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings `[B,D]`; what is longer than the network's text is cut off."""
        length = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt").to(
            self._device
        )
        pooled = self._model.text_model(**tokens).pooler_output
        return F.normalize(self._model.text_projection(pooled), dim=-1)


def _hps_parts(folder: Path, file: Path) -> Parts:
    from transformers import CLIPTokenizerFast

    from .open_clip_weights import clip_of

    lacking = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if lacking:
        remedy = "Put those of any OpenAI CLIP, such as openai/clip-vit-base-patch32, beside the weights."
        raise wrong_input("HPS folder", f"no {' and no '.join(lacking)} in {folder}", "CLIP's tokenizer", remedy)
    tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    return clip_of(read_tensors(file)), tokenizer, CLIP_MEAN, CLIP_STD
