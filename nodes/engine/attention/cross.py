"""Where a network's image places look at its words: queries and keys of every such attention, in any supported class.

Three kinds of networks, each with its own way to see final queries and keys without replacing the network's attention:
- U-Nets with cross-attention (SD1.5, SD2, SDXL; both hosts): hooks on the outputs of the projections `to_q`, `to_k`;
- diffusers transformers that attend over text and image in one sequence (SD3, Flux): hooks on what normalises queries
  and keys, and the rotary embedding that the attention was called with, applied here as well;
- ComfyUI's transformers of that kind: an `optimized_attention_override` in transformer_options for the call, which
  sees queries and keys after normalisation and rotation, and calls an override that another pack had set.

In a joint sequence only the queries of image places and the keys of text tokens are handed on.
A new family of joint attention is a line in `JOINT_BLOCKS` or `COMFY_JOINT_BLOCKS`; see `diffusers_families.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from ..errors import wrong_input
from ..families.unet_names import unet_paths
from ..host.context import pass_context
from .hooks import AttentionLayers, Collect, Hooks, Pass, by_head, give, keep, last, popped, unfused
from .joint import ComfyJointAttentions, JointAttentions

# List of blocks -> whether the attention's norms get `[B,heads,N,D]` (otherwise `[B,N,heads,D]`), by diffusers class.
JOINT_BLOCKS: dict[str, dict[str, bool]] = {
    "FluxTransformer2DModel": {"transformer_blocks": False, "single_transformer_blocks": False},
    "SD3Transformer2DModel": {"transformer_blocks": True},
}
# ComfyUI's list of blocks -> the diffusers name, which is the pack's own, by ComfyUI's class.
COMFY_JOINT_BLOCKS: dict[str, dict[str, str]] = {
    "Flux": {"double_blocks": "transformer_blocks", "single_blocks": "single_transformer_blocks"},
    "MMDiT": {"joint_blocks": "transformer_blocks"},
}
SUPPORTED = (
    "a U-Net of the Stable Diffusion class, SD3 or Flux (diffusers UNet2DConditionModel, SD3Transformer2DModel, "
    "FluxTransformer2DModel; ComfyUI's UNetModel, MMDiT, Flux)"
)


def attention_layers(network: nn.Module) -> AttentionLayers:
    """The text attentions of a network of either host. RegionStyleError for networks of another class."""
    for name in [base.__name__ for base in type(network).__mro__]:
        if name in JOINT_BLOCKS:
            return JointAttentions(network, JOINT_BLOCKS[name])
        if name in COMFY_JOINT_BLOCKS:
            return ComfyJointAttentions(network, COMFY_JOINT_BLOCKS[name])
    if any(hasattr(network, blocks) for blocks in ("down_blocks", "input_blocks")):
        return CrossAttentions(network)
    raise wrong_input("network", type(network).__name__, SUPPORTED, "Load a model of that kind.")


def cross_attentions(network: nn.Module) -> dict[str, nn.Module]:
    """Diffusers path -> module of every cross-attention of a Stable Diffusion class U-Net, in the network's order."""
    paths = unet_paths(network)
    return {path: network.get_submodule(name) for path, name in paths.items() if path.endswith(".attn2")}


class CrossAttentions(AttentionLayers):
    """U-Nets: separate queries and keys, no rotation after the projections."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self._modules = cross_attentions(network)
        self.paths = list(self._modules)

    def watch(self, paths: Collection[str], start: Callable[[], None], collect: Collect) -> list[Any]:
        """See `AttentionLayers.watch`."""
        now = Pass()

        def begin(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            start()
            now.call = self.tokens(args, kwargs)
            now.queries.clear()

        def keys(path: str, attention: Any, k: Tensor) -> None:
            q = popped(now.queries, path)
            if pass_context().tokens_hidden:
                return
            heads, scale = attention.heads, getattr(attention, "scale", None)
            (grid,) = now.call.image(q.shape[1])
            collect(path, by_head(q, heads), by_head(k, heads), grid, scale)

        with Hooks() as hooks:
            hooks.append(self.network.register_forward_pre_hook(begin, with_kwargs=True))
            for path in paths:
                attention = unfused(path, self._modules[path])
                hooks.append(last(attention, "to_q", "norm_q").register_forward_hook(keep(now.queries, path)))
                hooks.append(last(attention, "to_k", "norm_k").register_forward_hook(give(keys, path, attention)))
        return hooks
