"""Model families of experts: what an adapter must know about a network. To add one, read this file and no other.

The pack's own name for a layer is its module path in diffusers. A family says, for its networks on any host:

- `accepts`: whether a network is of this family (look at its structure, refuse relatives that differ);
- `parts`: which of diffusers' layers one of the network's layers is, or consists of (row slices of fused layers);
- `rows`: what the rows of a layer's input stand for, hence what a mask means there:
  "image" (tokens or pixels of the picture), "text" (text tokens of a joint attention), "joint" (text tokens, then
  image tokens), "words" (text read by a cross-attention, which is blended as a whole), "none" (no places at all);
- `attention`: the cross-attention a layer belongs to, if the family has any;
- `blocks`: modules whose layers see exactly the image tokens that came into the module, if the family has any;
- `masked_attentions`: joint attentions that take a mask (`joint_isolation.py`), if the network has any;
- `call`: from the arguments of one forward pass, the grid of image tokens and the number of text tokens (attention
  taps ask for these too).

Then list it in `FAMILIES`, and add a small random network of it to tests/engine/test_adapter_families.py (diffusers)
or test_comfy_families.py (ComfyUI). Its LoRA files can be read once `adapter_files.py` knows how its layers are
called there. (What a family means to a noise predictor is in `diffusers_families.py`.)
"""

from __future__ import annotations

import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input
from . import transformer_names, unet_names
from .token_grid import Size, token_grid
from .transformer_names import LayerSlice

SlicesOf = Callable[[str, nn.Module], list[LayerSlice]]


@dataclass(frozen=True)
class NetworkSlice:
    """Where one of diffusers' layers is in a network: module path, output rows (None: all), halves exchanged."""

    path: str
    rows: slice | None = None
    swapped: bool = False


@dataclass(frozen=True)
class TokenLayout:
    """The tokens of one forward pass.

    grids: rows and columns of the picture's tokens, then of those of context pictures, in their order. text: number
    of text tokens in a joint attention. halves: deeper layers have grids halved some times (U-Nets).
    """

    grids: tuple[Size, ...]
    text: int = 0
    halves: bool = False

    def image(self, tokens: int) -> tuple[Size, ...]:
        """The grids of a layer with so many image tokens; RegionStyleError when they do not fit."""
        if self.halves:
            return (token_grid(self.grids[0], tokens),)
        expected = sum(height * width for height, width in self.grids)
        if tokens != expected:
            raise RegionStyleError(
                f"image tokens: got {tokens}, expected {expected} ({_shown(self.grids)}). A patch that adds, merges "
                "or drops tokens cannot be combined with masks: switch it off, or use numbers as gates."
            )
        return self.grids

    def joint(self, tokens: int) -> tuple[int, tuple[Size, ...]]:
        """Text tokens and image grids of a layer that has both in one row; RegionStyleError as above."""
        return self.text, self.image(tokens - self.text)


class Family(ABC):
    """See the module's text."""

    name: str

    @abstractmethod
    def accepts(self, network: nn.Module) -> bool: ...

    @abstractmethod
    def parts(self, network: nn.Module) -> SlicesOf:
        """The function (module path, module) -> diffusers' layers in it, for this network."""

    @abstractmethod
    def rows(self, path: str) -> str:
        """What the rows of the input of a layer (diffusers path) stand for."""

    def attention(self, path: str) -> str | None:
        """Diffusers path of the cross-attention that a layer is inside of."""
        return None

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Modules whose layers see the image tokens that came in; what else a layer inside gets is an error."""
        return []

    def masked_attentions(self, network: nn.Module) -> list[str]:
        """Module paths of attentions over text and image together whose forward adds an `attention_mask`."""
        return []

    @abstractmethod
    def call(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        """arguments: those of the network's forward, by name."""

    def places(self, network: nn.Module) -> dict[str, NetworkSlice]:
        """Diffusers path -> place in this network, for every module that has one."""
        _refuse_fused(network)
        parts = self.parts(network)
        found: dict[str, NetworkSlice] = {}
        for name, module in network.named_modules():
            found.update(
                {part.path: NetworkSlice(name, part.rows, part.swapped) for part in parts(name, module) if name}
            )
        return found


class UNet(Family):
    """Stable Diffusion 1, 2 and XL: convolutions, self-attention, cross-attention to the text."""

    name = unet_names.SUPPORTED

    def accepts(self, network: nn.Module) -> bool:
        blocks = _has(network, "down_blocks", "up_blocks") or _has(network, "input_blocks", "output_blocks")
        return blocks and not unet_names.has_time_axis(network)

    def parts(self, network: nn.Module) -> SlicesOf:
        paths = {own: path for path, own in unet_names.unet_paths(network).items()}
        return lambda name, module: [LayerSlice(paths[name])] if name in paths else []

    def rows(self, path: str) -> str:
        return "words" if re.search(r"\.attn2\.to_[kv]$", path) else "image"

    def attention(self, path: str) -> str | None:
        return path.split(".attn2.")[0] + ".attn2" if ".attn2." in path else None

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        # Tokens alone do not tell: a quarter of the picture has as many as the whole one halved.
        return [module for name, module in network.named_modules() if re.search(r"\.transformer_blocks\.\d+$", name)]

    def call(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        return TokenLayout((_size(arguments["sample" if "sample" in arguments else "x"]),), halves=True)


class Flux(Family):
    """FLUX.1: text and image tokens attend to each other; two streams first, then one (text first)."""

    name = "a FLUX.1 transformer (diffusers FluxTransformer2DModel or ComfyUI's Flux)"

    def accepts(self, network: nn.Module) -> bool:
        if type(network).__name__ == "FluxTransformer2DModel":
            return True
        # FLUX.2 and others use the same class in ComfyUI, with other layers.
        params = getattr(network, "params", None)
        other = any(getattr(params, name, False) for name in ("global_modulation", "mlp_silu_act", "yak_mlp"))
        return type(network).__name__ == "Flux" and _has(network, "double_blocks", "single_blocks") and not other

    def parts(self, network: nn.Module) -> SlicesOf:
        return _parts_of_transformer

    def rows(self, path: str) -> str:
        return transformer_names.rows_of(path)

    def masked_attentions(self, network: nn.Module) -> list[str]:
        of_diffusers = re.compile(r"(?:single_)?transformer_blocks\.\d+\.attn")
        return [name for name, _ in network.named_modules() if of_diffusers.fullmatch(name)]

    def call(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        if "hidden_states" in arguments:
            grids = _grids_of_ids(arguments["img_ids"])
            return TokenLayout(grids, arguments["encoder_hidden_states"].shape[1])
        pictures = [arguments["x"], *(arguments.get("ref_latents") or [])]
        patch = int(network.patch_size)  # type: ignore[arg-type]
        return TokenLayout(
            tuple(_patched(_size(picture), patch) for picture in pictures), arguments["context"].shape[1]
        )


class SD3(Family):
    """Stable Diffusion 3 and 3.5: two streams in every block."""

    name = "an SD3 transformer (diffusers SD3Transformer2DModel or ComfyUI's MMDiT)"

    def accepts(self, network: nn.Module) -> bool:
        if type(network).__name__ == "SD3Transformer2DModel":
            return True
        return _has(network, "joint_blocks", "x_embedder", "context_embedder", "final_layer")

    def parts(self, network: nn.Module) -> SlicesOf:
        return _parts_of_transformer

    def rows(self, path: str) -> str:
        return transformer_names.rows_of(path)

    def call(self, network: nn.Module, arguments: Mapping[str, Any]) -> TokenLayout:
        if "hidden_states" in arguments:
            patch, picture, text = network.config.patch_size, arguments["hidden_states"], "encoder_hidden_states"  # type: ignore[union-attr]
        else:
            patch, picture, text = network.patch_size, arguments["x"], "context"
        return TokenLayout((_patched(_size(picture), int(patch)),), arguments[text].shape[1])  # type: ignore[arg-type]


FAMILIES: Sequence[Family] = (UNet(), Flux(), SD3())


def family_of(network: nn.Module) -> Family:
    """RegionStyleError for a network of no known family."""
    for family in FAMILIES:
        if family.accepts(network):
            return family
    known = "; ".join(family.name for family in FAMILIES)
    raise wrong_input("network", f"{type(network).__name__}, of another family", known, "Load a model of that kind.")


def bound(network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a forward pass by name."""
    given = inspect.signature(type(network).forward).bind_partial(network, *args, **kwargs).arguments
    return {**given, **given.get("kwargs", {})}


def is_linear(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it computes a linear layer: ComfyUI's quantised ones are not torch's."""
    return isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features"))


def _parts_of_transformer(name: str, module: nn.Module) -> list[LayerSlice]:
    if is_linear(module):
        return transformer_names.parts(name, module.in_features, module.out_features)
    if isinstance(module, nn.Conv2d):
        return transformer_names.parts(name, module.in_channels, module.out_channels)
    return []


def _refuse_fused(network: nn.Module) -> None:
    """diffusers can fuse projections, and then does not call the layers that experts are for."""
    for path, module in network.named_modules():
        if getattr(module, "fused_projections", False):
            remedy = "Call unfuse_qkv_projections() on the network first."
            raise wrong_input("network", f"fused projections in {path}", "separate projections", remedy)


def _grids_of_ids(ids: Tensor) -> tuple[Size, ...]:
    """Grids from diffusers' position ids `[N,3]` (picture, row, column), one per picture, in their order."""
    ids = ids[0] if ids.ndim == 3 else ids
    _, counts = torch.unique_consecutive(ids[:, 0], return_counts=True)
    grids = []
    for picture in ids[:, 1:].split(counts.tolist()):
        height, width = (int(extent) + 1 for extent in picture.amax(0) - picture.amin(0))
        if height * width != len(picture):
            accepts = "one token per row and column of each picture"
            raise wrong_input("img_ids", f"{len(picture)} tokens on {height}x{width}", accepts, "Use whole pictures.")
        grids.append((height, width))
    return tuple(grids)


def _patched(size: Size, patch: int) -> Size:
    return -(-size[0] // patch), -(-size[1] // patch)


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]


def _has(network: nn.Module, *names: str) -> bool:
    return all(hasattr(network, name) for name in names)


def _shown(grids: Sequence[Size]) -> str:
    return " + ".join(f"{height}x{width}" for height, width in grids)
