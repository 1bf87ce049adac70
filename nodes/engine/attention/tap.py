"""Attention tap: where in the image a network attends to chosen words, seen during its normal forward pass.

The network keeps whatever fast attention, processors or overrides it has, and none of them is replaced; which
networks: `families/registry.py`; how queries and keys are seen: `cross.py` and `joint.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels import token_attention, token_logodds
from ..errors import RegionStyleError, wrong_input
from ..families.token_grid import Size
from ..host.compiled import uncompiled
from ..host.context import observing_attention, pass_context
from ..host.memory import BatchSlice
from .bias import AttentionBias
from .cross import AttentionLayers, attention_layers

QUANTITIES = ("logodds", "share", "joint")


class AttentionTap:
    """Maps of token groups from the text attentions of one network.

    Usage: `with AttentionTap(predictor, [[5, 6], [9]], valid=text.valid) as tap: predictor.predict(...)`, then
    `tap.maps` (diffusers path of the attention -> `[B,G,h,w]`) or `tap.mean((h, w))`. Maps are those of the last
    forward pass (of all its parts, where memory was short) and belong to its autograd graph. Where experts with masks
    make an attention run several times, its map is the blend of all passes, as its output is. Where text and image
    share one sequence, maps are of the image's queries over the text's keys alone: no image key takes
    part, as in a cross-attention. Where prompts are kept apart (`RegionGate.visible_tokens`), maps are still over
    all tokens, as if every image token might see them: they are hidden from the output, not from the maps.
    """

    def __init__(
        self,
        target: Any,
        groups: Tensor | Sequence[Sequence[int]],
        *,
        valid: Tensor | None = None,
        quantity: str = "logodds",
        layers: Collection[str] | None = None,
        bias: AttentionBias | None = None,
        repeats: bool = False,
    ) -> None:
        """target: a NoisePredictor or the network itself; groups: token positions of each group, or bool `[G,M]` or
        `[B or 1,G,M]`; valid: bool `[M]` or `[B or 1,M]`, the tokens compared with (None: all, also start and padding).

        quantity: "logodds" (`kernels.token_logodds`; 0 for a network without preference) or "share" (the sum of
        `kernels.token_attention` over the group's tokens, out of the valid ones, in 0..1) or "joint" (the same out of
        all that a place attends to: every text token and, where text and image are one sequence, every image token).
        layers: diffusers paths of text attentions (None: all). bias: what is added to the logits during these passes;
        the maps are then those of the biased attention. repeats: the prompt may run several times over along the
        tokens, as ComfyUI runs it beside a longer one. RegionStyleError for what the network does not have.
        """
        if quantity not in QUANTITIES:
            raise wrong_input("quantity", repr(quantity), f"one of {QUANTITIES}", "Choose one of these.")
        if quantity == "joint" and valid is not None:
            raise wrong_input("valid", "some words", 'None for "joint"', 'Choose "share" to compare with words only.')
        self.groups, self.valid, self.quantity, self._bias = groups, valid, quantity, bias
        self._repeats = repeats
        self._target, self._layers = target, layers
        self._find()
        self.maps: dict[str, Tensor] = {}
        self._now: dict[str, Tensor] = {}  # of the running pass; and of the parts of the batch before it
        self._before: dict[str, Tensor] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> AttentionTap:
        layers, paths = self._find()
        self._handles = layers.watch(paths, self._start, self._collect)
        self._observing = ExitStack()
        self._observing.enter_context(observing_attention())
        self._observing.enter_context(uncompiled())
        return self

    def __exit__(self, *error: object) -> None:
        self._observing.close()
        while self._handles:
            self._handles.pop().remove()

    def mean(self, size: Size | None = None, layers: Collection[str] | None = None) -> Tensor:
        """The mean map `[B,G,h,w]` in float32 or better, each layer's resized to `size` (default: the largest grid).

        RegionStyleError when no forward pass ran inside the tap, or for layers that gave no map.
        """
        maps = self.maps if layers is None else {path: self._map(path) for path in layers}
        if not maps:
            raise RegionStyleError("attention tap: got no map, expected one per layer. Run the network inside it.")
        height, width = size or max((m.shape[-2:] for m in maps.values()), key=lambda s: s[0] * s[1])
        return torch.stack([resized_map(m, (height, width)) for m in maps.values()]).mean(0)

    def _find(self) -> tuple[AttentionLayers, list[str]]:
        """The network's attentions, which a predictor may exchange between two uses, and the chosen paths."""
        layers = attention_layers(getattr(self._target, "network", self._target))
        return layers, _chosen(layers.paths, self._layers)

    def _map(self, path: str) -> Tensor:
        if path not in self.maps:
            raise wrong_input("layers", repr(path), f"one of {sorted(self.maps)}", "Name layers that gave a map.")
        return self.maps[path]

    def _start(self) -> None:
        """A pass begins: forget the one before, unless both are parts of one batch (`running_slice`)."""
        running = pass_context().batch_slice
        self._before = {} if running is None or running.start == 0 else self.maps
        self.maps, self._now = {}, {}

    def _collect(
        self, path: str, q: Tensor, k: Tensor, grid: Size, scale: float | None, images: Tensor | None = None
    ) -> None:
        groups = _marks("groups", self._along(as_groups(self.groups, k.shape[2]), k.shape[2]), 2, k)
        if self._bias is not None:
            q, k, images, scale = self._bias.folded(q, k, images, grid, scale)
        if self.quantity == "joint" and images is not None:
            k = torch.cat([k, images], 2)
            groups = F.pad(groups, (0, images.shape[2]))
        seen = self._quantity(q, k, groups, scale).unflatten(-1, grid)
        share = pass_context().attention_share
        if share is not None:
            before = self._now.get(path, torch.zeros_like(seen))
            seen = before + seen * share.reshape(len(seen), 1, *seen.shape[-2:]).to(seen.dtype)
        self._now[path] = seen
        self.maps[path] = (
            _joined(self._before[path], seen, pass_context().batch_slice) if path in self._before else seen
        )

    def _along(self, marks: Tensor, tokens: int) -> Tensor:
        """Marks for so many tokens, where the prompt may be repeated."""
        times = tokens // marks.shape[-1] if self._repeats and tokens % marks.shape[-1] == 0 else 1
        return marks if times == 1 else marks.repeat(*[1] * (marks.ndim - 1), times)

    def _quantity(self, q: Tensor, k: Tensor, groups: Tensor, scale: float | None) -> Tensor:
        """`[B,G,N]`."""
        valid = None if self.valid is None else _marks("valid", self._along(self.valid, k.shape[2]), 1, k)
        if self.quantity == "logodds":
            return token_logodds(q, k, groups, valid, scale=scale)
        return _group_shares(q, k, groups, valid, scale)


def _joined(before: Tensor, seen: Tensor, part: BatchSlice | None) -> Tensor:
    """Maps of the first rows of a batch and of the next part; each may hold its images once per prompt."""
    blocks = 1 if part is None else len(seen) // (part.stop - part.start)
    return torch.cat([maps.unflatten(0, (blocks, -1)) for maps in (before, seen)], 1).flatten(0, 1)


def as_groups(groups: Tensor | Sequence[Sequence[int]], tokens: int) -> Tensor:
    """Token positions as bool `[G,tokens]`; tensors pass. RegionStyleError for positions out of range."""
    if isinstance(groups, Tensor):
        return groups
    if not groups or any(not 0 <= t < tokens for group in groups for t in group) or not all(groups):
        accepts = f"one or more groups of positions in 0..{tokens - 1}"
        raise wrong_input("groups", [list(g) for g in groups], accepts, "Find them with find_phrase.")
    table = torch.zeros(len(groups), tokens, dtype=torch.bool)
    for row, group in zip(table, groups, strict=True):
        row[list(group)] = True
    return table


def _marks(name: str, marks: Tensor, axes: int, k: Tensor) -> Tensor:
    """The running rows of marks, one per token of keys k `[B,H,M,D]`: of so many axes, or one more for the batch.

    RegionStyleError unless they are bool and have one entry per token, and one row or as many as the batch.
    """
    marks = marks.to(k.device)
    if marks.ndim > axes:
        marks = marks[0] if len(marks) == 1 else pass_context().own_rows(marks)
    fits = marks.ndim == axes or (marks.ndim == axes + 1 and len(marks) == len(k))
    if marks.dtype != torch.bool or not fits or marks.shape[-1] != k.shape[2]:
        shape = f"{'G,' * (axes - 1)}{k.shape[2]}"
        got, accepts = f"{marks.dtype} {list(marks.shape)}", f"bool [{shape}] or [{len(k)},{shape}]"
        raise wrong_input(name, got, accepts, "Mark the tokens of the prompt that runs, once or for each row.")
    return marks


def _group_shares(q: Tensor, k: Tensor, groups: Tensor, valid: Tensor | None, scale: float | None) -> Tensor:
    """Sum of the valid tokens' attention in each group `[B,G,N]`, the softmax running over the valid ones."""
    rows = groups.expand(len(q), -1, -1)
    used = rows.flatten(0, 1).any(0).nonzero().squeeze(1)
    columns = token_attention(q, k, used.tolist(), support=valid, scale=scale)
    return (columns @ rows[..., used].transpose(1, 2).to(columns.dtype)).transpose(1, 2)


def _chosen(paths: list[str], layers: Collection[str] | None) -> list[str]:
    if layers is not None and (unknown := sorted(set(layers) - set(paths))):
        raise wrong_input("layers", unknown, f"some of {paths}", "Name text attentions of this network.")
    chosen = [path for path in paths if layers is None or path in layers]
    if not chosen:
        raise wrong_input("layers", "no text attention", "one or more", "Use a network that reads text.")
    return chosen


def resized_map(maps: Tensor, size: Size) -> Tensor:
    """Maps `[B,G,h,w]` on another grid, in float32 or better."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
