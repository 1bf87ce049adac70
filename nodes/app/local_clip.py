"""The networks of local CLIP style: the tiny world's, which ship with the pack, or public ones from folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.errors import wrong_input
from ..engine.settings.checks import checked
from ..local_clip.networks import LocalClipNetworks
from ..local_clip.presets import TINY
from ..local_clip.public_networks import load_public
from ..local_clip.settings import LocalClipSettings
from ..tinyworld.classifier import load_classifier
from ..tinyworld.clip import TinyClip
from ..tinyworld.networks import TEXT_LENGTH
from ..tinyworld.styles import STYLES, UNSTYLED
from ..tinyworld.tokenizer import known
from .metric_networks import TINY_CLASSIFIER, TINY_CLIP

TINY_SIDE = 128  # pixels, what the tiny networks were trained at
TINY_TEMPLATES = ("a picture in {} style", "a photo in {} style", "an object in {} style", "a shape in {} style")


class TinyTowers:
    """The tiny CLIP, differentiable in its pictures. It knows the tiny world's styles only."""

    name, size, source = TINY_CLIP, TINY_SIDE, UNSTYLED
    templates: tuple[str, ...] = TINY_TEMPLATES

    def __init__(self) -> None:
        clip = TinyClip()
        self._image: Any = clip.image
        self._text: Any = clip.text
        self._tokenizer: Any = clip.tokenizer
        self.modules: tuple[nn.Module, ...] = (self._image, self._text)
        for module in self.modules:
            module.requires_grad_(False)

    def embed_images(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self._image(images)
        return embeddings

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        if unknown := sorted({word for text in texts for word in text.replace(",", " ").split() if not known(word)}):
            accepts = f"a style the tiny CLIP was taught: {', '.join(STYLES)}"
            remedy = "Name one of these, or use a public CLIP, which knows any (a folder of your own)."
            raise wrong_input("style", " ".join(unknown), accepts, remedy)
        device = next(self._text.parameters()).device
        ids = self._tokenizer(list(texts), padding="max_length", max_length=TEXT_LENGTH)["input_ids"]
        if (longest := max(len(one) for one in ids)) > TEXT_LENGTH:
            raise wrong_input("style", f"{longest} tokens", f"at most {TEXT_LENGTH}", "Use fewer words for it.")
        embeddings: Tensor = self._text(input_ids=torch.tensor(ids, device=device)).text_embeds
        return embeddings


class TinyContent:
    """The last two stages of the tiny classifier in the place of VGG-19's layers."""

    name, size = TINY_CLASSIFIER, TINY_SIDE

    def __init__(self, classifier: Any = None) -> None:
        network = load_classifier() if classifier is None else classifier
        self._tower: Any = network.requires_grad_(False).tower
        self.modules: tuple[nn.Module, ...] = (network,)

    def maps(self, images: Tensor, *, rectified: bool) -> list[Tensor]:
        x, found = F.relu(self._tower.stem(images * 2 - 1)), []
        for stage in self._tower.stages:
            inner = stage.norm2(stage.second(F.relu(stage.norm1(stage.first(x)))))
            plain = inner + stage.shortcut(x)
            x = F.relu(plain)
            found.append(x if rectified else plain)
        return found[-2:]


def usual_settings(given: Mapping[str, Any], folder: Path | None) -> LocalClipSettings:
    """Settings that were given, with the preset for the tiny CLIP where there is no other and none was chosen.

    RegionStyleError for a name or a value that is none.
    """
    usual = {"preset": TINY.name} if folder is None else {}
    return LocalClipSettings(**checked(LocalClipSettings, **{**usual, **given}))


def tiny_local_clip() -> LocalClipNetworks:
    """Both stand-ins; they work at 128 pixels. RegionStyleError when their files are missing."""
    return LocalClipNetworks(TinyTowers(), TinyContent(), native=TINY_SIDE)


def local_clip_networks(folder: Path | None) -> LocalClipNetworks:
    """The tiny ones, or those of a folder: a CLIP in the transformers layout with VGG-19's weights file in it or beside
    it. RegionStyleError naming what is not there."""
    if folder is None:
        return tiny_local_clip()
    from ..engine.public_networks import VGG19_FILE

    beside = folder if (folder / VGG19_FILE).is_file() else folder.resolve().parent
    return load_public(folder, beside if (beside / VGG19_FILE).is_file() else folder)


def known_clip_styles(folder: Path | None) -> list[str] | None:
    """The styles that a CLIP knows: the tiny one's; None where any words are a style."""
    return list(STYLES) if folder is None else None
