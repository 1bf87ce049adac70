"""The published networks of the method, read from the user's folders: any CLIP, and VGG-19 (LEAST, section 3.2).

Nothing is fetched. Licences: OpenAI's CLIP MIT, torchvision's VGG-19 BSD-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.errors import wrong_input
from ..engine.public_networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TORCHVISION,
    VGG19_FILE,
    clip_parts,
    filled,
    weights_file,
)
from .clip_tower import class_token
from .networks import LocalClipNetworks
from .templates import SOURCE, TEMPLATES

# The convolutions conv4_2 and conv5_2 of torchvision's VGG-19; each is followed by its rectification.
CONTENT_LAYERS = (21, 30)
CONTENT_SIZE = 512


class ClipFolder:
    """A CLIP in a folder in the transformers layout: ViT-B/32, ViT-L/14 or any other of that class."""

    templates, source = TEMPLATES, SOURCE

    def __init__(
        self, model: Any, tokenizer: Any, mean: Sequence[float], deviation: Sequence[float], name: str
    ) -> None:
        self.name, self.size = name, int(model.config.vision_config.image_size)
        self._model, self._tokenizer, self._mean, self._deviation = model, tokenizer, mean, deviation
        embeddings = model.vision_model.embeddings
        embeddings.patch_embedding = PatchProduct(embeddings.patch_embedding)
        self.modules: tuple[nn.Module, ...] = (model,)

    @classmethod
    def read(cls, folder: Path) -> ClipFolder:
        """In float32, which gradients need, whatever its file is in. RegionStyleError for a folder without a CLIP."""
        folder = Path(folder)
        model, tokenizer, mean, deviation = clip_parts(folder)
        return cls(model.float(), tokenizer, mean, deviation, folder.resolve().name)

    def embed_images(self, images: Tensor) -> Tensor:
        mean, deviation = (images.new_tensor(v)[:, None, None] for v in (self._mean, self._deviation))
        pooled = class_token(self._model.vision_model, (images - mean) / deviation)
        projected: Tensor = self._model.visual_projection(pooled)
        return projected

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        most = int(self._model.config.text_config.max_position_embeddings)
        tokens = self._tokenizer(list(texts), padding=True, return_tensors="pt")
        if tokens["input_ids"].shape[1] > most:
            got = f"{tokens['input_ids'].shape[1]} tokens in {max(texts, key=len)!r}"
            raise wrong_input("style", got, f"at most {most}, with the sentence around it", "Use fewer words for it.")
        pooled = self._model.text_model(**tokens.to(next(self._model.parameters()).device)).pooler_output
        projected: Tensor = self._model.text_projection(pooled)
        return projected


class PatchProduct(nn.Module):
    """A convolution whose patches do not overlap, as one matrix product.

    On a CPU its gradient takes a tenth of the whole tower's time as a convolution, and next to nothing so.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    @property
    def weight(self) -> Tensor:
        """What the tower around it asks for the dtype of."""
        return self.convolution.weight

    def forward(self, x: Tensor) -> Tensor:
        """Pictures `[N,C,H,W]` to `[N,D,H/s,W/s]`."""
        side = self.convolution.kernel_size[0]
        rows, columns = x.shape[-2] // side, x.shape[-1] // side
        tiles = x[..., : rows * side, : columns * side].unflatten(-1, (columns, side)).unflatten(-3, (rows, side))
        flat = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(flat, self.weight.flatten(1), self.convolution.bias).movedim(-1, 1)


class VggContent:
    """conv4_2 and conv5_2 of VGG-19, ImageNet-normalised; the published code's are rectified in place."""

    name = "VGG-19"

    def __init__(self, features: nn.Sequential, size: int = CONTENT_SIZE) -> None:
        """features: torchvision's `vgg19().features`, of which what lies behind the last layer is left out."""
        self.size = size
        kept = [_apart(layer) for layer in list(features)[: CONTENT_LAYERS[-1] + 2]]
        self._features = kept
        # memory order in which convolutions of this size are fastest on a CPU and a GPU
        network: nn.Module = nn.Sequential(*kept).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.modules: tuple[nn.Module, ...] = (network,)

    @classmethod
    def read(cls, folder: Path) -> VggContent:
        """RegionStyleError where torchvision's file of ImageNet weights is missing or is another network's."""
        path = weights_file(folder, VGG19_FILE, TORCHVISION)
        from torchvision.models import vgg19

        return cls(filled(vgg19(weights=None), path).features)

    def maps(self, images: Tensor, *, rectified: bool) -> list[Tensor]:
        mean, deviation = (images.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
        x, found = ((images - mean) / deviation).to(memory_format=torch.channels_last), []
        last = CONTENT_LAYERS[-1] + rectified
        for index, layer in enumerate(self._features):
            x = layer(x)
            if index - rectified in CONTENT_LAYERS:
                found.append(x)
            if index == last:
                break
        return found


def _apart(layer: nn.Module) -> nn.Module:
    """torchvision's rectifications overwrite what is before them, which would be one of the two layers."""
    return nn.ReLU() if isinstance(layer, nn.ReLU) else layer


def load_public(clip: Path, vgg: Path) -> LocalClipNetworks:
    """clip: a CLIP's folder; vgg: the folder that VGG-19's weights file lies in. RegionStyleError naming what is not
    there."""
    return LocalClipNetworks(ClipFolder.read(clip), VggContent.read(vgg))
