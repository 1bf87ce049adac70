"""A bias on attention: words are attended to more inside their region and less outside it.

To the logit between image token p and each token of a phrase is added

    strength * std(s) * (2 m(p) - 1)

with m the phrase's mask on the layer's grid, in 0..1, and std(s) the standard deviation of that layer's logits between
image tokens and words, per image, so that one strength fits every layer and network. Known from paint-with-words
(eDiff-I, arXiv:2211.01324, section 4.3, which raises the inside only); the form is that of RegionRoute guidance.

How a network gets it: the attention that runs inside a layer is called with an additive mask. ComfyUI lets an
`optimized_attention_override` do that, which calls one that another pack had set; of diffusers' networks the call of
torch's attention itself is met. Nothing is replaced for longer than the `with` block, and no weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ..errors import RegionStyleError, wrong_input
from ..families.base import ModelFamily
from ..families.registry import family_of
from ..families.token_grid import Size
from ..families.token_layout import TokenLayout, bound
from ..host.compiled import uncompiled
from ..host.context import observing_attention, pass_context
from .hooks import Hooks, by_head
from .losses import masks_on_grid

OVERRIDE = "optimized_attention_override"
SAMPLED_ROWS = 256  # image tokens whose logits the standard deviation is taken of, evenly spread


class AttentionBias:
    """The bias of some phrases, for networks that run inside its `with` block.

    strength may be changed between passes; rows: which rows of the batch it acts on, bool `[B]` (None: those of
    positive prompts). acted: how many attentions of the last pass got it.
    """

    strength: float
    rows: Tensor | None

    def __init__(
        self, target: Any, groups: Tensor, masks: Tensor, strength: float, valid: Tensor, rows: Tensor | None = None
    ) -> None:
        """target: a NoisePredictor or the network itself; groups: token groups bool `[G,M]` or `[B or 1,G,M]`; masks
        `[G,H,W]` or `[B or 1,G,H,W]` in 0..1; valid: the words, bool `[M]` or `[B or 1,M]`."""
        self._target, self.strength, self.rows, self.acted = target, strength, rows, 0
        self._groups = groups if groups.ndim == 3 else groups[None]
        self._masks = masks if masks.ndim == 4 else masks[None]
        self._valid = valid if valid.ndim == 2 else valid[None]

    def __enter__(self) -> AttentionBias:
        network = getattr(self._target, "network", self._target)
        self._open = _Open(network, self)
        self._open.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)

    def coefficients(self, q: Tensor, k: Tensor, grid: Size, scale: float | None) -> tuple[Tensor, Tensor]:
        """What each image token adds to each group's logits `[B,N,G]`, and the groups as numbers `[B,G,M]`.

        q `[B,H,N,D]` of the picture's tokens, k `[B,H,M,D]` of the text's.
        """
        batch = len(q)
        groups = self._tokens(self._groups, k.shape[2], batch).to(q.device, q.dtype)
        valid = self._tokens(self._valid, k.shape[2], batch).to(q.device)
        masks = masks_on_grid(_fitted(self._masks, batch).to(q.device, torch.float32), grid)
        acting = pass_context().positive_rows(batch) if self.rows is None else self.rows
        size = self.strength * logit_deviation(q, k, valid, scale) * acting.to(q.device)
        return ((2 * masks.flatten(2) - 1).mT * size[:, None, None]).to(q.dtype), groups

    def folded(
        self, q: Tensor, k: Tensor, images: Tensor | None, grid: Size, scale: float | None
    ) -> tuple[Tensor, Tensor, Tensor | None, float]:
        """Queries and keys whose plain products are the biased logits: one more channel for each group."""
        added, groups = self.coefficients(q, k, grid, scale)
        scale = q.shape[-1] ** -0.5 if scale is None else scale
        heads = q.shape[1]
        wide_q = torch.cat([q * scale, added[:, None].expand(-1, heads, -1, -1)], -1)
        wide_k = torch.cat([k, groups.mT[:, None].expand(-1, heads, -1, -1)], -1)
        return wide_q, wide_k, None if images is None else F.pad(images, (0, groups.shape[1])), 1.0

    def _tokens(self, marks: Tensor, tokens: int, batch: int) -> Tensor:
        """Marks of the running rows; a prompt that runs beside a longer one is repeated by ComfyUI."""
        length = marks.shape[-1]
        if tokens % length:
            remedy = "Use the prompt that was encoded for this guidance."
            raise wrong_input("text tokens", tokens, f"{length}, those of the guided prompt", remedy)
        return _fitted(marks, batch).repeat(*[1] * (marks.ndim - 1), tokens // length)


def logit_deviation(q: Tensor, k: Tensor, valid: Tensor, scale: float | None) -> Tensor:
    """Standard deviation `[B]` of scale * q k^T over image tokens and valid words, mean over heads, in float32.

    q `[B,H,N,D]`, k `[B,H,M,D]`, valid bool `[B,M]`. Of many image tokens, `SAMPLED_ROWS` are looked at.
    """
    rows = torch.linspace(0, q.shape[2] - 1, min(SAMPLED_ROWS, q.shape[2]), device=q.device).round().long()
    with torch.no_grad():
        logits = q[:, :, rows].float() @ k.float().mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        weight = valid[:, None, None].to(logits)
        count = (weight.sum((-2, -1)) * logits.shape[2]).clamp_min(1)
        mean = (logits * weight).sum((-2, -1)) / count
        spread = ((logits - mean[..., None, None]).square() * weight).sum((-2, -1)) / count
        return spread.sqrt().mean(1)


def _fitted(values: Tensor, batch: int) -> Tensor:
    """One entry for all rows, or one for each: those of the running slice, repeated once per prompt."""
    if len(values) == 1:
        return values.expand(batch, *values.shape[1:])
    values = pass_context().own_rows(values)
    if batch % len(values):
        raise wrong_input("masks", f"{len(values)} entries", f"1 or one for each of {batch} rows", "Give one each.")
    return values.repeat(batch // len(values), *[1] * (values.ndim - 1))


class _Open:
    """The bias at work: hooks tell which text attention runs, and the attention inside it gets the mask."""

    def __init__(self, network: nn.Module, bias: AttentionBias) -> None:
        self.network, self.bias, self.family = network, bias, family_of(network)
        self.inside: tuple[str, bool] | None = None  # path of the running attention, whether its text stands first
        self.layout = TokenLayout(())
        self.hooks: Hooks = Hooks()
        self.on_diffusers = self.family.is_diffusers(network)
        self.mode = _AttentionCalls(self) if self.on_diffusers else None
        self.contexts: list[Any] = []

    def __enter__(self) -> None:
        with Hooks() as hooks:
            hooks.append(self.network.register_forward_pre_hook(self._begin, with_kwargs=True))
            for path, module, text_first in _attentions(self.network, self.family):
                hooks.append(module.register_forward_pre_hook(lambda *_, at=(path, text_first): self._enter(at)))
                hooks.append(module.register_forward_hook(lambda *_: self._leave()))
        self.hooks = hooks
        self.contexts = [observing_attention(), uncompiled(), *([self.mode] if self.mode else [])]
        for context in self.contexts:
            context.__enter__()

    def __exit__(self, *error: object) -> None:
        while self.contexts:
            self.contexts.pop().__exit__(None, None, None)
        while self.hooks:
            self.hooks.pop().remove()

    def _begin(self, network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A pass begins; ComfyUI's gets an override in a copy of its transformer_options."""
        self.bias.acted, self.inside = 0, None
        self.layout = self.family.token_layout(network, bound(network, args, kwargs))
        if self.on_diffusers:
            return None
        options = kwargs.get("transformer_options")
        if options is None:
            raise wrong_input("model", "a call without transformer_options", "ComfyUI's own", "Use its samplers.")
        return args, {**kwargs, "transformer_options": {**options, OVERRIDE: self._override(options.get(OVERRIDE))}}

    def _enter(self, at: tuple[str, bool]) -> None:
        self.inside = at

    def _leave(self) -> None:
        self.inside = None

    def _override(self, previous: Callable[..., Any] | None) -> Callable[..., Any]:
        def override(func: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, *args: Any, **named: Any) -> Any:
            attend = func if previous is None else (lambda *a, **kw: previous(func, *a, **kw))
            heads, mask, *rest = (*args, *[None] * (2 - len(args))) if args else (named.pop("heads"), None)
            mask = named.pop("mask", None) if mask is None else mask
            apart = named.get("skip_reshape")
            seen = (q, k) if apart else (by_head(q, heads), by_head(k, heads))
            return attend(q, k, v, heads, self.mask(*seen, mask, named.get("scale")), *rest, **named)

        return override

    def mask(self, q: Tensor, k: Tensor, mask: Tensor | None, scale: float | None) -> Tensor | None:
        """The additive mask `[B,Nq,Nk]` of a call of attention with q `[B,H,Nq,D]`, k `[B,H,Nk,D]`.

        What was given, where it is no attention of image tokens over text.
        """
        if self.inside is None or pass_context().tokens_hidden:
            return mask
        path, text_first = self.inside
        if self.layout.halves:
            rows, columns, (grid,) = slice(None), slice(None), self.layout.image(q.shape[2])
        else:
            words, (height, width) = self.layout.text, self.layout.grids[0]
            if q.shape[2] < words + height * width or k.shape[2] != q.shape[2]:
                return mask  # over the image alone
            start = words if text_first else 0
            grid, rows = (height, width), slice(start, start + height * width)
            columns = slice(0, words) if text_first else slice(k.shape[2] - words, None)
        added, groups = self.bias.coefficients(q[:, :, rows], k[:, :, columns], grid, scale)
        whole = q.new_zeros(len(q), q.shape[2], k.shape[2])
        whole[:, rows, columns] = added @ groups
        self.bias.acted += 1
        return whole if mask is None else _both(whole, mask)


class _AttentionCalls(TorchFunctionMode):
    """Meets every call of torch's attention while it is entered."""

    def __init__(self, running: _Open) -> None:
        super().__init__()
        self.running = running

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is F.scaled_dot_product_attention and self.running.inside is not None:
            names = ("query", "key", "value", "attn_mask")
            kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
            args = args[len(names) :]
            mask = self.running.mask(kwargs["query"], kwargs["key"], kwargs.get("attn_mask"), kwargs.get("scale"))
            kwargs["attn_mask"] = mask[:, None] if mask is not None and mask.ndim == 3 else mask
            if args:
                raise RegionStyleError(
                    "attention: torch's attention was called with more than four arguments in a row."
                )
        return func(*args, **kwargs)


def _attentions(network: nn.Module, family: ModelFamily) -> Sequence[tuple[str, nn.Module, bool]]:
    """Path and module of every text attention, and whether its text tokens stand before the image's.

    In ComfyUI's transformers the module is the block, as the attention inside has none of its own.
    """
    lists = family.joint_blocks(network)
    if not lists:
        paths = family.cross_attentions(network)
        return [(path, network.get_submodule(name), True) for path, name in paths.items()]
    return [
        (f"{blocks.path}.{number}.attn", block.attn if family.is_diffusers(network) else block, blocks.text_first)
        for blocks in lists
        for number, block in enumerate(getattr(network, blocks.attribute))
    ]


def _both(added: Tensor, mask: Tensor) -> Tensor:
    """An additive mask with another one, bool or additive, of any number of axes."""
    mask = (
        torch.zeros_like(mask, dtype=added.dtype).masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else mask
    )
    if mask.ndim == 4:
        return added[:, None] + mask.to(added.dtype)
    return added + mask.to(added.dtype)
