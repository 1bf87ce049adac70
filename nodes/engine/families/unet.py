"""What the U-Nets of the Stable Diffusion class have in common: convolutions, self-attention, cross-attention."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from . import unet_names
from .base import BIAS, COMPOSITION, GRADIENT, ModelFamily
from .comfy_sampling import table_of
from .layers import LayerSlice, SlicesOf, has_attributes
from .token_grid import Size
from .token_layout import TokenLayout, latent_size

if TYPE_CHECKING:
    from ..predictor.schedule import Schedule


class UNet(ModelFamily):
    """diffusers' UNet2DConditionModel or ComfyUI's UNetModel."""

    kind = "U-Nets"
    diffusers_class, comfy_class = "UNet2DConditionModel", "UNetModel"
    predicts = ("eps", "v")
    lora_layouts = ("kohya", "diffusers")
    guides = (GRADIENT, BIAS, COMPOSITION)

    def accepts(self, network: nn.Module) -> bool:
        """See `ModelFamily.accepts`."""
        return has_blocks(network) and self.is_variant(network) and not unet_names.has_time_axis(network)

    @abstractmethod
    def is_variant(self, network: nn.Module) -> bool:
        """Whether a U-Net is one of this family."""

    def slices_in(self, network: nn.Module) -> SlicesOf:
        """See `ModelFamily.slices_in`."""
        paths = {module: path for path, module in unet_names.unet_paths(network).items()}
        return lambda name, module: [LayerSlice(name, paths[name])] if name in paths else []

    def token_kind(self, path: str) -> str:
        """See `ModelFamily.token_kind`."""
        return "words" if re.search(r"\.attn2\.to_[kv]$", path) else "image"

    def token_blocks(self, network: nn.Module) -> list[nn.Module]:
        """See `ModelFamily.token_blocks`.

        The number of tokens alone does not tell: a quarter of the picture has as many as the whole one halved.
        """
        return [module for name, module in network.named_modules() if re.search(r"\.transformer_blocks\.\d+$", name)]

    def comfy_blocks_of(self, network: nn.Module) -> list[nn.Module]:
        """See `ModelFamily.comfy_blocks_of`: residual blocks, and those of transformers."""
        residual = [module for module in network.modules() if has_attributes(module, "in_layers", "out_layers")]
        return [*residual, *self.token_blocks(network)]

    def token_layout(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        """See `ModelFamily.token_layout`."""
        return TokenLayout((latent_size(arguments["sample" if "sample" in arguments else "x"]),), halves=True)

    def cross_attention_of(self, path: str) -> str | None:
        """See `ModelFamily.cross_attention_of`."""
        match = re.match(r"(.*?\.attn2)(?:\.|$)", path)
        return match[1] if match else None

    def cross_attentions(self, network: nn.Module) -> dict[str, str]:
        """See `ModelFamily.cross_attentions`."""
        return {path: module for path, module in unet_names.unet_paths(network).items() if path.endswith(".attn2")}

    def layout_layers(self, grids: Mapping[str, Size], latent: Size) -> list[str]:
        """See `ModelFamily.layout_layers`: the halved and the quartered latent, 32 and 16 tokens a side for SD1.5.

        (RegionRoute's guidance; finer layers follow texture, coarser ones see too few places.)
        """
        half = _halved(latent)
        useful = [path for path, grid in grids.items() if tuple(grid) in (half, _halved(half))]
        return useful or list(grids)

    def comfy_schedule(self, sampling: Any) -> tuple[Schedule, str] | None:
        """See `ModelFamily.comfy_schedule`."""
        return table_of(sampling)

    def layer_name(self, underscored: str) -> str | None:
        """See `ModelFamily.layer_name`."""
        return unet_names.with_dots(underscored)

    def file_slices(
        self, sizes: Mapping[str, tuple[int, int]], network: nn.Module | None
    ) -> dict[str, list[LayerSlice]]:
        """See `ModelFamily.file_slices`. ldm numbers of blocks are those of `network`, or of the published models."""
        ldm = [name for name in sizes if unet_names.is_ldm_name(name)]
        paths = {name: name for name in sizes if name not in ldm}
        if ldm:
            known = network if network is not None and has_blocks(network) else None
            counts = unet_names.guess_counts(ldm) if known is None else unet_names.counts_of_network(known)
            resnets = unet_names.table_lookup(counts)
            paths |= {name: path for name in ldm if (path := unet_names.to_diffusers(name, resnets))}
        return {name: [LayerSlice(name, paths[name])] if name in paths else [] for name in sizes}


def has_blocks(network: nn.Module) -> bool:
    """Whether a network has an encoder and a decoder of blocks, as either host names them."""
    ldm = has_attributes(network, "input_blocks", "output_blocks")
    return ldm or has_attributes(network, "down_blocks", "up_blocks")


def _halved(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)
