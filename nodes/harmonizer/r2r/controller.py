"""Harmony Controller (R2R, arXiv:2508.09746): a copy of the U-Net's encoder that sees the hint and never the latent.

It is diffusers' ControlNet with seven hint channels, whose first feature is the hint's embedding alone (`conv_in` is in
the published files and unused), and with a `Maca` after each downsampler and after the last residual block. Its output
depends on picture, mask and timestep only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .architecture import SD, Architecture, new_controlnet
from .maca import Maca, background_of


@dataclass(frozen=True)
class Residuals:
    """What is added to the U-Net's twelve skip tensors and to its middle."""

    down: tuple[Tensor, ...]
    mid: Tensor


class HarmonyController(nn.Module):
    """Hint `[B,7,H,W]`, timestep, text `[B,n,width]` and latent-sized mask `[B,1,H/8,W/8]` -> `Residuals`."""

    def __init__(self, architecture: Architecture = SD) -> None:
        super().__init__()
        base = new_controlnet(architecture)
        self.architecture = architecture
        self.conv_in = base.conv_in.requires_grad_(False)
        self.time_proj, self.time_embedding = base.time_proj, base.time_embedding
        self.down_blocks, self.mid_block = base.down_blocks, base.mid_block
        self.controlnet_cond_embedding = base.controlnet_cond_embedding
        self.controlnet_down_blocks, self.controlnet_mid_block = base.controlnet_down_blocks, base.controlnet_mid_block
        self.PCCAs = nn.ModuleList(Maca(channels) for channels in architecture.unet)
        self.modulates = True  # switched off to measure what the modules are worth

    def embed_hint(self, hint: Tensor) -> Tensor:
        """The hint `[B,7,H,W]` as `[B,C,H/8,W/8]`: the same at every timestep, so it is computed once."""
        embedded: Tensor = self.controlnet_cond_embedding(hint)
        return embedded

    def forward(
        self, embedded: Tensor, timestep: Tensor | float, text: Tensor, mask: Tensor,
        backgrounds: Sequence[Tensor] | None = None,
    ) -> Residuals:  # fmt: skip
        """embedded: `embed_hint`; backgrounds: of a reference (`backgrounds`), in place of the picture's own."""
        features = [x for _, x, _ in self._walk(embedded, timestep, text, mask, backgrounds)]
        mid = self._middle(features[-1], timestep, text)
        down = tuple(conv(x) for conv, x in zip(self.controlnet_down_blocks, features, strict=True))
        return Residuals(down, self.controlnet_mid_block(mid))

    def backgrounds(
        self, embedded: Tensor, timestep: Tensor | float, text: Tensor, region: Tensor, share: Tensor
    ) -> list[Tensor]:
        """Per `Maca` the means `[B,C]` that a reference gives: region `[1,1,h,w]`, of its picture, counts as background
        of a picture that is background in the `share` `[B]`."""
        foreground = 1 - region
        walk = self._walk(embedded, timestep, text, foreground, None)
        return [background_of(before, _at(region, before), share) for site, _, before in walk if site is not None]

    def _walk(
        self, embedded: Tensor, timestep: Tensor | float, text: Tensor, mask: Tensor,
        backgrounds: Sequence[Tensor] | None,
    ) -> Iterator[tuple[int | None, Tensor, Tensor]]:  # fmt: skip
        """Position by position: the number of its `Maca` or None, the feature, and the feature before that."""
        time, x = self._time(embedded, timestep), embedded
        yield None, x, x
        last = len(self.down_blocks) - 1
        for level, block in enumerate(self.down_blocks):
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for number, (resnet, attention) in enumerate(zip(block.resnets, attentions, strict=True)):
                x = resnet(x, time)
                x = x if attention is None else attention(x, encoder_hidden_states=text, return_dict=False)[0]
                if level == last and number == len(block.resnets) - 1:
                    before, x = x, self._modulated(level, x, mask, backgrounds)
                    yield level, x, before
                else:
                    yield None, x, x
            for downsampler in block.downsamplers or []:
                before = downsampler(x)
                x = self._modulated(level, before, mask, backgrounds)
                yield level, x, before

    def _modulated(self, site: int, x: Tensor, mask: Tensor, backgrounds: Sequence[Tensor] | None) -> Tensor:
        if not self.modulates:
            return x
        modulated: Tensor = self.PCCAs[site](x, _at(mask, x), None if backgrounds is None else backgrounds[site])
        return modulated

    def _middle(self, x: Tensor, timestep: Tensor | float, text: Tensor) -> Tensor:
        mid: Tensor = self.mid_block(x, self._time(x, timestep), encoder_hidden_states=text)
        return mid

    def _time(self, x: Tensor, timestep: Tensor | float) -> Tensor:
        times = torch.as_tensor(timestep, device=x.device).reshape(-1).expand(len(x))
        embedded: Tensor = self.time_embedding(self.time_proj(times).to(x.dtype))
        return embedded


def copied_from_unet(controller: HarmonyController, unet: Any) -> HarmonyController:
    """The controller with the U-Net encoder's weights, as its training begins: all tensors whose names both have,
    except the first convolution, which has other channels. Hint encoder, `Maca`s and output convolutions stay."""
    state = unet.state_dict()
    own = controller.state_dict()
    shared = {name: state[name] for name in own if name in state and not name.startswith("conv_in.")}
    controller.load_state_dict(shared, strict=False)
    return controller


def _at(mask: Tensor, x: Tensor) -> Tensor:
    """A mask at a feature's size, by the nearest pixel."""
    return F.interpolate(mask.float(), x.shape[-2:], mode="nearest").to(x.dtype)
