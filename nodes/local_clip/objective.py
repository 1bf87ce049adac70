"""The loss of one region, and its gradient with respect to the picture that is worked on.

The gradient is gathered at the picture, term by term and, where memory is short, some patches at a time: what a term
needed is freed before the next one, and the network that paints the picture is passed backwards once.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.errors import wrong_input
from ..engine.host.base import Host
from ..engine.public_networks import IMAGENET_MEAN, IMAGENET_STD
from ..engine.region.boxes import mask_box
from .frames import fitting_mask
from .losses import content_loss, direction_losses, exact, total_variation, unit
from .networks import LocalClipNetworks
from .patch_term import PatchTerm
from .patches import PatchSampler
from .settings import LocalClipSettings

GREY = 0.5
TERMS = ("direction", "patch", "content", "variation")


@dataclass
class Terms:
    """The weighted terms of an iteration, and the share of the patches that were satisfied."""

    values: dict[str, float] = field(default_factory=dict)
    satisfied: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.values.values())


class RegionObjective:
    """What one region of a frame is told to become; use inside `differentiable`.

    picture `[1,3,h,w]` in 0..1: the content; mask `[h,w]` in 0..1 with something above 0; direction `[D]`: of its
    style; random: where the patches come from.
    """

    def __init__(
        self, networks: LocalClipNetworks, picture: Tensor, mask: Tensor, direction: Tensor,
        settings: LocalClipSettings, host: Host, random: torch.Generator,
    ) -> None:  # fmt: skip
        self.mask = mask.to(picture)
        self._networks, self._settings, self._direction = networks, settings, direction
        content = imagenet_normalised(picture) if settings.preset.content_scale == "twice" else picture
        self._fitting = fitting_mask(self.mask, settings.preset)[None, None]
        inside = self._fitting[0, 0]
        self._box = mask_box(inside, 0.5 if bool((inside > 0.5).any()) else 0.0)
        self._sampler = PatchSampler(content, self._fitting, self._box, networks.clip.size, settings, random)
        with torch.no_grad():
            self._view_before = unit(self._embedded(self._view(content)))
            whole = unit(self._embedded(self._fitted(content)))
            self._maps_before = self._maps(content)
        self._patches = PatchTerm(self._embedded, whole, direction, settings.satisfied, host)

    def add_gradient(self, picture: Tensor) -> Terms:
        """Add the gradient of the loss at `picture` (a leaf that requires grad) to its `grad`; returns the terms.

        RegionStyleError when one of them is no number.
        """
        terms = Terms()
        whole = {"direction": self._direction_loss, "content": self._content_loss, "variation": self._variation}
        for name, loss in whole.items():
            if weight := self._settings.weight(name):
                weighted = weight * loss(picture)
                weighted.backward()  # type: ignore[no-untyped-call]
                terms.values[name] = _checked(name, weighted)
        if weight := self._settings.weight("patch"):
            value, terms.satisfied = self._patches.add_gradient(self._sampler.draw(picture), weight)
            terms.values["patch"] = _checked("patch", value)
        return terms

    def _direction_loss(self, picture: Tensor) -> Tensor:
        seen = unit(self._embedded(self._view(picture)))
        return direction_losses(seen, self._view_before, self._direction).mean()

    def _content_loss(self, picture: Tensor) -> Tensor:
        return content_loss(self._maps(picture), self._maps_before, self._settings.preset.content_distance)

    def _variation(self, picture: Tensor) -> Tensor:
        return total_variation(picture * self._fitting)

    def _view(self, picture: Tensor) -> Tensor:
        """What CLIP sees of the region, `[1,3,s,s]`."""
        preset = self._settings.preset
        beside = GREY if preset.surroundings == "grey" else 0.0
        masked = picture * self._fitting + beside * (1 - self._fitting)
        return self._fitted(self._boxed(masked) if preset.view == "box" else masked)

    def _fitted(self, picture: Tensor) -> Tensor:
        """At CLIP's size: bicubic, without antialiasing, both sides (LEAST's and CLIPstyler's input)."""
        side = self._networks.clip.size
        return F.interpolate(picture, (side, side), mode="bicubic", align_corners=False)

    def _boxed(self, picture: Tensor) -> Tensor:
        x0, y0, x1, y1 = self._box
        return picture[..., y0:y1, x0:x1]

    def _maps(self, picture: Tensor) -> list[Tensor]:
        side = self._networks.content.size
        boxed = F.interpolate(self._boxed(picture), (side, side), mode="bilinear", align_corners=False)
        return self._networks.content.maps(boxed, rectified=self._settings.preset.content_rectified)

    def _embedded(self, pictures: Tensor) -> Tensor:
        with self._precision(pictures.device):
            embeddings = self._networks.clip.embed_images(pictures)
        return exact(embeddings)

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """Half precision inside, where it is wanted; the losses stay in float32."""
        if not self._settings.half:
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16 if device.type == "cpu" else torch.float16)


def imagenet_normalised(picture: Tensor) -> Tensor:
    """`[B,3,h,w]` minus ImageNet's mean colour over its deviation."""
    mean, deviation = (picture.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (picture - mean) / deviation


def _checked(name: str, value: Tensor) -> float:
    number = float(value.detach())
    if not math.isfinite(number):
        remedy = "It has diverged: lower the rate, or switch half off."
        raise wrong_input("local CLIP style", f"a {name} loss of {number}", "finite numbers", remedy)
    return number
