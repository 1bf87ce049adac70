"""The networks that say what a picture looks like: a CLIP for the style, feature maps for the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .templates import SOURCE, TEMPLATES


class TextImageTowers(Protocol):
    """A CLIP whose image tower can be differentiated.

    name: ends in "-tiny" for a stand-in; size: side in pixels of the pictures it reads; modules: what the host loads;
    templates, source: sentences for a style's words, and the words for a picture without a style.
    """

    name: str
    size: int
    modules: tuple[nn.Module, ...]
    templates: tuple[str, ...]
    source: str

    def embed_images(self, images: Tensor) -> Tensor:
        """Embeddings `[N,D]`, not normalised, of pictures `[N,3,size,size]` in about 0..1."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings `[N,D]`, not normalised. RegionStyleError for a text that is too long."""


class ContentFeatures(Protocol):
    """Feature maps that say what is where. size: side in pixels that the part of the region is resized to."""

    name: str
    size: int
    modules: tuple[nn.Module, ...]

    def maps(self, images: Tensor, *, rectified: bool) -> list[Tensor]:
        """Two layers `[N,C,h,w]` of pictures `[N,3,size,size]` in 0..1, before or after their rectification."""


@dataclass(frozen=True)
class LocalClipNetworks:
    """clip: judges the style; content: judges what is kept; native: usual side in pixels of the picture worked on."""

    clip: TextImageTowers
    content: ContentFeatures
    native: int = 512

    @property
    def name(self) -> str:
        """Both names, as messages and numbers carry them."""
        return f"{self.clip.name}, {self.content.name}"

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Everything the host has to load."""
        return (*self.clip.modules, *self.content.modules)


__all__ = ["SOURCE", "TEMPLATES", "ContentFeatures", "LocalClipNetworks", "TextImageTowers"]
