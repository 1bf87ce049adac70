"""Hooks on modules, and what the ways of seeing attention in `attention_layers.py` share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..errors import RegionStyleError, wrong_input
from ..families.network_layers import TokenLayout, bound, family_of
from ..families.token_grid import Size


class Collect(Protocol):
    """Takes what one attention computed."""

    def __call__(self, path: str, q: Tensor, k: Tensor, grid: Size, scale: float | None) -> None:
        """q `[B,H,N,D]` of the N = rows * columns image places, k `[B,H,M,D]` of the text tokens; scale of q k^T."""


class AttentionLayers(ABC):
    """The text attentions of one network. paths: their diffusers names, in the network's order."""

    paths: list[str]

    def __init__(self, network: nn.Module) -> None:
        """RegionStyleError for a network of no family of `adapter_families.py`."""
        self.network, self._family = network, family_of(network)

    def tokens(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TokenLayout:
        """The tokens of a forward pass that is called with these arguments."""
        return self._family.call(self.network, bound(self.network, args, kwargs))

    @abstractmethod
    def watch(self, paths: Collection[str], start: Callable[[], None], collect: Collect) -> list[Any]:
        """Call `start` when a forward pass begins, then `collect` once per layer of `paths`.

        Returns handles whose `remove()` ends it and restores everything. RegionStyleError where a layer cannot be
        watched; what was hooked until then is removed.
        """


@dataclass
class Pass:
    """What is known during one forward pass. call: its tokens, from its beginning on."""

    call: TokenLayout = TokenLayout(())
    queries: dict[str, Tensor] = field(default_factory=dict)
    rotary: dict[str, Any] = field(default_factory=dict)


class Hooks(list[Any]):
    """Handles that are removed when making them fails half-way."""

    def __enter__(self) -> Hooks:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        while kind is not None and self:
            self.pop().remove()


def keep(queries: dict[str, Tensor], path: str) -> Callable[..., None]:
    return lambda module, args, output: queries.update({path: output})


def give(keys: Callable[[str, Any, Tensor], None], path: str, attention: Any) -> Callable[..., None]:
    return lambda module, args, output: keys(path, attention, output)


def popped(queries: dict[str, Tensor], path: str) -> Tensor:
    if path not in queries:
        raise RegionStyleError(
            f"attention tap: {path} made its keys before its queries, expected queries first. Something replaced "
            "this attention; remove that patch or choose other layers."
        )
    return queries.pop(path)


def unfused(path: str, attention: Any) -> Any:
    if getattr(attention, "fused_projections", False):
        remedy = "Call unfuse_qkv_projections() on the network first."
        raise wrong_input("network", f"fused projections in {path}", "separate queries and keys", remedy)
    return attention


def refuse_mask(path: str, mask: Any) -> None:
    if mask is not None:
        remedy = "Maps of words assume that every place may look at every word: remove the mask."
        raise wrong_input("attention tap", f"an attention mask in {path}", "none", remedy)


def last(attention: Any, projection: str, norm: str) -> nn.Module:
    """The module that gives the final queries or keys: the norm after the projection where there is one."""
    found = getattr(attention, norm, None)
    return getattr(attention, projection) if found is None else found


def by_head(x: Tensor, heads: int) -> Tensor:
    """`[B,N,heads*D]` -> `[B,heads,N,D]`; a norm may have got it by head already."""
    return x if x.ndim == 4 else x.unflatten(-1, (heads, -1)).transpose(1, 2)
