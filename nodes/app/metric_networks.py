"""The networks that measure, joined from the tiny world and the public ones in the user's folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.errors import wrong_input
from ..metrics.networks.networks import MetricNetworks
from ..metrics.networks.perceptual import PerceptualDistance
from ..metrics.text_image import NamedTowers

if TYPE_CHECKING:
    import torch

    from ..metrics.distributions import Embed
    from ..metrics.text_image import TextImageModel

TINY = "tiny world"
LPIPS = {"LPIPS alex": "alex", "LPIPS vgg": "vgg"}
TINY_CLIP, TINY_CLASSIFIER = "tiny world CLIP-tiny", "tiny world classifier-tiny"
NATIVE = 128  # pixels, of the tiny networks


def tiny_text_image() -> TextImageModel:
    """The tiny CLIP; its numbers end in "-tiny"."""
    from ..tinyworld.clip import TinyClip

    return NamedTowers(TinyClip(), TINY_CLIP)


def tiny_features(classifier: Any = None) -> Any:
    """Feature maps of the shipped classifier (or of the one given) for `PerceptualDistance`."""
    from torch.nn import functional as F

    from ..tinyworld.classifier import load_classifier

    network = load_classifier() if classifier is None else classifier

    def read(images: torch.Tensor) -> Sequence[torch.Tensor]:
        x = images.float()
        if min(x.shape[-2:]) < 32:  # four halvings and the stem must leave something
            x = F.interpolate(x, scale_factor=32 / min(x.shape[-2:]), mode="bilinear")
        return network.features(x)

    return read


def tiny_distance(classifier: Any = None) -> PerceptualDistance:
    """LPIPS over the classifier's features, without learnt weights."""
    return PerceptualDistance(tiny_features(classifier), TINY_CLASSIFIER)


def tiny_embed(classifier: Any = None) -> Embed:
    """Per picture the classifier's last features averaged over the picture, `[B,192]`, for `fid-tiny`."""
    read = tiny_features(classifier)
    return lambda images: read(images)[-1].mean((2, 3))


def tiny_networks() -> MetricNetworks:
    """Both stand-ins. RegionStyleError when their files are missing."""
    return MetricNetworks(tiny_text_image(), tiny_distance())


def load_networks(
    text_image: str, distance: str, folder: Path | None, clip_folder: Path | None, device: Any = "cpu"
) -> MetricNetworks:
    """text_image: TINY, or any other name with `clip_folder`; distance: TINY or a name of LPIPS with `folder`."""
    from ..metrics.networks.public import ClipTowers, load_lpips

    if distance not in (TINY, *LPIPS):
        raise wrong_input("perceptual", repr(distance), ", ".join([TINY, *LPIPS]), "Choose one of these.")
    if (clip_folder is None) != (text_image == TINY) or (folder is None and distance != TINY):
        raise wrong_input("networks", f"{text_image}, {distance}", "a folder for every public network", "Name it.")
    towers = tiny_text_image() if clip_folder is None else ClipTowers(clip_folder, device)
    if distance == TINY or folder is None:
        return MetricNetworks(towers, tiny_distance())
    return MetricNetworks(towers, load_lpips(folder, LPIPS[distance], device))
