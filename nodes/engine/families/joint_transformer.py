"""What families of transformers with text and image in one sequence have in common; a family fills in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from . import joint_names
from .base import JointBlocks, ModelFamily
from .joint_names import JointNames
from .layers import LayerSlice, SlicesOf, is_linear
from .token_grid import Size


class JointTransformer(ModelFamily):
    """names: of its layers; diffusers_blocks, comfy_blocks: its lists of blocks on each host."""

    predicts = ("flow",)
    names: ClassVar[JointNames]
    diffusers_blocks: ClassVar[tuple[JointBlocks, ...]]
    comfy_blocks: ClassVar[tuple[JointBlocks, ...]] = ()

    def slices_in(self, network: nn.Module) -> SlicesOf:
        """See `ModelFamily.slices_in`."""
        return self._slices_of

    def _slices_of(self, name: str, module: nn.Module) -> list[LayerSlice]:
        if is_linear(module):
            return self.names.slices(name, module.in_features, module.out_features)
        if isinstance(module, nn.Conv2d):
            return self.names.slices(name, module.in_channels, module.out_channels)
        return []

    def token_kind(self, path: str) -> str:
        """See `ModelFamily.token_kind`."""
        return joint_names.token_kind(path)

    def joint_blocks(self, network: nn.Module) -> tuple[JointBlocks, ...]:
        """See `ModelFamily.joint_blocks`."""
        return self.diffusers_blocks if self.is_diffusers(network) else self.comfy_blocks

    def layout_layers(self, grids: Mapping[str, Size], latent: Size) -> list[str]:
        """See `ModelFamily.layout_layers`: the middle third of the blocks with two streams, the first of the others."""
        two = [path for path in grids if not path.startswith("single")]
        one = [path for path in grids if path.startswith("single")]
        middle = two[len(two) // 3 : len(two) - len(two) // 3]
        return (middle + one[: len(one) // 3]) or list(grids)

    def layer_name(self, underscored: str) -> str | None:
        """See `ModelFamily.layer_name`."""
        return self.names.with_dots(underscored)

    def file_slices(
        self, sizes: Mapping[str, tuple[int, int]], network: nn.Module | None
    ) -> dict[str, list[LayerSlice]]:
        """See `ModelFamily.file_slices`."""
        return {name: self.names.slices(name, *size) for name, size in sizes.items()}
