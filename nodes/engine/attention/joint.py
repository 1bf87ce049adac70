"""Attention over text and image in one sequence, seen from outside: diffusers' and ComfyUI's transformers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from torch import Tensor, nn

from ..errors import RegionStyleError
from ..families.base import JointBlocks, ModelFamily
from ..host.context import pass_context
from .hooks import (
    AttentionLayers,
    Collect,
    Hooks,
    Pass,
    by_head,
    final_module,
    on_key,
    refuse_mask,
    store_query,
    take_query,
    unfused,
)

OVERRIDE = "optimized_attention_override"


class JointAttentions(AttentionLayers):
    """diffusers transformers with text and image in one sequence."""

    def __init__(self, network: nn.Module, family: ModelFamily, lists: Sequence[JointBlocks]) -> None:
        """lists: those of `ModelFamily.joint_blocks`."""
        super().__init__(network, family)
        blocks = _blocks_by_path(network, lists)
        self._modules = {path: (block.attn, heads_first) for path, (block, heads_first) in blocks.items()}
        self.paths = list(self._modules)

    def watch(self, paths: Collection[str], start: Callable[[], None], collect: Collect) -> list[Any]:
        """See `AttentionLayers.watch`. Text tokens stand first where text and image share their projections."""
        now = Pass()

        def begin(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            start()
            now.queries.clear()
            now.image_keys.clear()
            now.rotary.clear()
            now.layout = self.token_layout(args, kwargs)

        def called(path: str) -> Callable[..., None]:
            def before(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                refuse_mask(path, kwargs.get("attention_mask"))
                now.rotary[path] = kwargs.get("image_rotary_emb")

            return before

        def keys(path: str, attention: Any, k: Tensor) -> None:
            heads_first, words = self._modules[path][1], now.layout.text
            found = [take_query(now.queries, path), k, *_optional(now.image_keys.pop(path, None))]
            q, k, *rest = (_split(x, attention.heads, heads_first) for x in found)
            if not rest:  # text and image share their projections
                q, k, rest = q[:, :, words:], k[:, :, :words], [k[:, :, words:]]
            q, k, images = _rotated(q, k, rest[0], words, now.rotary.pop(path, None))
            grid = now.layout.grids[0]
            collect(path, q[:, :, : grid[0] * grid[1]], k, grid, getattr(attention, "scale", None), images)

        with Hooks() as hooks:
            hooks.append(self.network.register_forward_pre_hook(begin, with_kwargs=True))
            for path in paths:
                attention = unfused(path, self._modules[path][0])
                names = ("add_k_proj", "norm_added_k") if _has_text_keys(attention) else ("to_k", "norm_k")
                query, key = final_module(attention, "to_q", "norm_q"), final_module(attention, *names)
                hooks.append(attention.register_forward_pre_hook(called(path), with_kwargs=True))
                hooks.append(query.register_forward_hook(store_query(now.queries, path)))
                if _has_text_keys(attention):
                    image_key = final_module(attention, "to_k", "norm_k")
                    hooks.append(image_key.register_forward_hook(store_query(now.image_keys, path)))
                hooks.append(key.register_forward_hook(on_key(keys, path, attention)))
        return hooks


class ComfyJointAttentions(AttentionLayers):
    """ComfyUI's transformers with text and image in one sequence, text first.

    ComfyUI does not tell an override which block calls it (some families never do, others not before 0.3.76), so hooks
    on the blocks do.
    """

    def __init__(self, network: nn.Module, family: ModelFamily, lists: Sequence[JointBlocks]) -> None:
        """lists: those of `ModelFamily.joint_blocks`."""
        super().__init__(network, family)
        self._modules = {path: block for path, (block, _) in _blocks_by_path(network, lists).items()}
        self.paths = list(self._modules)

    def watch(self, paths: Collection[str], start: Callable[[], None], collect: Collect) -> list[Any]:
        """See `AttentionLayers.watch`."""
        watcher = _Override(self, start, collect)
        with Hooks() as hooks:
            hooks.append(self.network.register_forward_pre_hook(watcher.begin, with_kwargs=True))
            for path in paths:
                block = self._modules[path]
                hooks.append(block.register_forward_pre_hook(lambda *_, path=path: watcher.enter(path)))
                hooks.append(block.register_forward_hook(lambda *_, path=path: watcher.leave(path)))
        return hooks


class _Override:
    """The override of one forward pass; `path` is the block that runs."""

    def __init__(self, layers: AttentionLayers, start: Callable[[], None], collect: Collect) -> None:
        self.layers, self.start, self.collect = layers, start, collect
        self.path: str | None = None
        self.now = Pass()

    def begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pass begins: put the override into a copy of its transformer_options, before one that is there."""
        self.start()
        self.path = None
        self.now = Pass(self.layers.token_layout(args, kwargs))
        options = kwargs.get("transformer_options")
        if options is None:
            raise RegionStyleError(
                "attention tap: this model was called without transformer_options, expected ComfyUI's own call. "
                "Predict through ComfyPredictor."
            )
        return args, {**kwargs, "transformer_options": {**options, OVERRIDE: self.wrap(options.get(OVERRIDE))}}

    def enter(self, path: str) -> None:
        """A block begins."""
        self.path = path

    def leave(self, path: str) -> None:
        """A block ends. RegionStyleError where its attention was not seen."""
        if self.path is not None:
            raise RegionStyleError(
                f"attention tap: {path} made no attention over text and image together, expected one. Something "
                "replaced this block's attention; remove that patch or choose other layers."
            )

    def wrap(self, previous: Callable[..., Any] | None) -> Callable[..., Any]:
        """The override, which calls the one that was set before."""

        def override(func: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.path is not None:
                heads = kwargs["heads"] if "heads" in kwargs else args[0]
                mask = kwargs.get("mask", args[1] if len(args) > 1 else None)
                self.see(q, k, heads, mask, kwargs)
            return func(q, k, v, *args, **kwargs) if previous is None else previous(func, q, k, v, *args, **kwargs)

        return override

    def see(self, q: Tensor, k: Tensor, heads: int, mask: Tensor | None, options: dict[str, Any]) -> None:
        """Hand on the block's first attention over text and image; one over the image alone is passed over."""
        grid, words = self.now.layout.grids[0], self.now.layout.text
        q, k = (x if options.get("skip_reshape") else by_head(x, heads) for x in (q, k))
        image_tokens = grid[0] * grid[1]
        if q.shape[2] < words + image_tokens or k.shape[2] != q.shape[2]:
            return
        path, self.path = self.path or "", None
        if not pass_context().tokens_hidden:
            refuse_mask(path, mask)
        # After the text tokens come the picture's, then those of reference pictures.
        self.collect(
            path, q[:, :, words : words + image_tokens], k[:, :, :words], grid, options.get("scale"), k[:, :, words:]
        )


def _blocks_by_path(network: nn.Module, lists: Sequence[JointBlocks]) -> dict[str, tuple[Any, bool]]:
    """Diffusers path of an attention -> its block, and whether its norms get heads first."""
    return {
        f"{blocks.path}.{number}.attn": (block, blocks.heads_first)
        for blocks in lists
        for number, block in enumerate(getattr(network, blocks.attribute))
    }


def _has_text_keys(attention: Any) -> bool:
    """Whether text has projections of its own (blocks with a single stream share them)."""
    return getattr(attention, "add_k_proj", None) is not None


def _split(x: Tensor, heads: int, heads_first: bool) -> Tensor:
    """A projection or a norm's output as `[B,heads,N,D]`."""
    return by_head(x, heads) if x.ndim == 3 or heads_first else x.transpose(1, 2)


def _optional(x: Tensor | None) -> list[Tensor]:
    return [] if x is None else [x]


def _rotated(q: Tensor, k: Tensor, images: Tensor, words: int, rotary: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Image queries, text keys and image keys after the rotation."""
    if rotary is None:
        return q, k, images
    from diffusers.models.embeddings import apply_rotary_emb

    cosine, sine = rotary
    rows = slice(words, words + q.shape[2])
    of_images = cosine[rows], sine[rows]
    rotated_text = apply_rotary_emb(k, (cosine[:words], sine[:words]))
    return apply_rotary_emb(q, of_images), rotated_text, apply_rotary_emb(images, of_images)
