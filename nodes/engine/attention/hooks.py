"""Hooks on modules, and what the ways of seeing attention in `cross.py` and `joint.py` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input
from ..families.base import ModelFamily
from ..families.token_grid import Size
from ..families.token_layout import TokenLayout, bound


class Collect(Protocol):
    """Takes what one attention computed."""

    def __call__(
        self, path: str, q: Tensor, k: Tensor, grid: Size, scale: float | None, images: Tensor | None = None
    ) -> None:
        """q `[B,H,N,D]` of the N = rows * columns image tokens, k `[B,H,M,D]` of the text tokens; scale of q k^T.

        images: keys `[B,H,K,D]` of the image tokens, where text and image are one sequence.
        """


class AttentionLayers(ABC):
    """The text attentions of one network. paths: their diffusers names, in the network's order."""

    paths: list[str]

    def __init__(self, network: nn.Module, family: ModelFamily) -> None:
        self.network, self._family = network, family

    def token_layout(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TokenLayout:
        """The tokens of a forward pass that is called with these arguments."""
        return self._family.token_layout(self.network, bound(self.network, args, kwargs))

    @abstractmethod
    def watch(self, paths: Collection[str], start: Callable[[], None], collect: Collect) -> list[Any]:
        """Call `start` when a forward pass begins, then `collect` once per layer of `paths`.

        Returns handles whose `remove()` ends it and restores everything. RegionStyleError where a layer cannot be
        watched; what was hooked until then is removed.
        """


@dataclass
class Pass:
    """What is known during one forward pass, by path: queries, and keys of image tokens, whose text keys are to come;
    rotary embeddings. layout: its tokens."""

    layout: TokenLayout = TokenLayout(())
    queries: dict[str, Tensor] = field(default_factory=dict)
    image_keys: dict[str, Tensor] = field(default_factory=dict)
    rotary: dict[str, Any] = field(default_factory=dict)


class Hooks(list[Any]):
    """Handles that are removed when making them fails half-way."""

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        while kind is not None and self:
            self.pop().remove()


def store_query(queries: dict[str, Tensor], path: str) -> Callable[..., None]:
    """A forward hook that stores a module's output as the queries of the attention at `path`."""
    return lambda module, args, output: queries.update({path: output})


def on_key(keys: Callable[[str, Any, Tensor], None], path: str, attention: Any) -> Callable[..., None]:
    """A forward hook that calls keys(path, attention, output), the output being the attention's keys."""
    return lambda module, args, output: keys(path, attention, output)


def take_query(queries: dict[str, Tensor], path: str) -> Tensor:
    """The stored queries of an attention, which are forgotten. RegionStyleError where there are none."""
    if path not in queries:
        raise RegionStyleError(
            f"attention tap: {path} made its keys before its queries, expected queries first. Something replaced "
            "this attention; remove that patch or choose other layers."
        )
    return queries.pop(path)


def unfused(path: str, attention: Any) -> Any:
    """The attention itself. RegionStyleError where diffusers has fused its projections."""
    if getattr(attention, "fused_projections", False):
        remedy = "Call unfuse_qkv_projections() on the network first."
        raise wrong_input("network", f"fused projections in {path}", "separate queries and keys", remedy)
    return attention


def refuse_mask(path: str, mask: Any) -> None:
    """RegionStyleError for an attention with a mask."""
    if mask is not None:
        remedy = "Maps of words assume that every image token may attend to every word: remove the mask."
        raise wrong_input("attention tap", f"an attention mask in {path}", "none", remedy)


def final_module(attention: Any, projection: str, norm: str) -> nn.Module:
    """The module that gives the final queries or keys: the norm after the projection where there is one."""
    after = getattr(attention, norm, None)
    return getattr(attention, projection) if after is None else after


def by_head(x: Tensor, heads: int) -> Tensor:
    """`[B,N,heads*D]` -> `[B,heads,N,D]`; a norm may have got it by head already."""
    return x if x.ndim == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)
