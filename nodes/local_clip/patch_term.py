"""The patch loss of one region: its value, and its gradient, which only the patches that count are asked for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..engine.host.base import Host
from ..engine.host.memory import BatchSlice, in_parts
from .losses import direction_losses, unit, without_satisfied
from .patches import Drawn

# A CPU takes a batch in parts whose tensors its allocator keeps and its caches hold, a tenth faster than all at once.
CPU_PART = 16
# To look at all patches first and differentiate those that are not satisfied costs less than to differentiate all once
# about half of them are: CLIP forwards takes as long as backwards.
LOOK_FIRST = 0.5


class PatchTerm:
    """embed: pictures `[N,3,s,s]` to embeddings `[N,D]`; whole `[1,D]`: the content's unit embedding, which patches
    without a content of their own are compared with; direction `[D]`; threshold: losses below it do not count."""

    def __init__(
        self, embed: Callable[[Tensor], Tensor], whole: Tensor, direction: Tensor, threshold: float, host: Host
    ) -> None:
        self._embed, self._whole, self._direction, self._host = embed, whole, direction, host
        self._threshold, self._satisfied = threshold, 0.0

    def add_gradient(self, drawn: Drawn, weight: float) -> tuple[Tensor, float]:
        """Pass the gradient back through `drawn.patches`; the weighted loss, and the share that is satisfied."""
        before = self._references(drawn)
        rows, losses = torch.arange(len(drawn.patches), device=drawn.patches.device), None
        if self._satisfied > LOOK_FIRST:
            losses = self._looked(drawn.patches.detach(), before)
            rows = rows[~(losses < self._threshold)]
        gradient, pushed = self._differentiated(drawn, before, rows, weight)
        losses = pushed if losses is None else losses
        drawn.patches.backward(gradient)  # type: ignore[no-untyped-call]
        self._satisfied = float((losses < self._threshold).float().mean())
        return weight * (without_satisfied(losses, self._threshold) * drawn.weights).sum(), self._satisfied

    @torch.no_grad()
    def _references(self, drawn: Drawn) -> Tensor:
        """What each patch is compared with, `[1 or N,D]`."""
        content = drawn.before
        if content is None:
            return self._whole
        return self._in_parts(lambda rows: unit(self._embed(content[rows])), len(content))

    @torch.no_grad()
    def _looked(self, patches: Tensor, before: Tensor) -> Tensor:
        """The losses `[N]` of patches."""
        return self._in_parts(lambda rows: self._losses(patches[rows], _of(before, rows)), len(patches))

    def _differentiated(self, drawn: Drawn, before: Tensor, rows: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """The gradient at all patches `[N,3,s,s]`, 0 but for `rows` of them, and those rows' losses."""
        gradient = torch.zeros_like(drawn.patches)

        def add(part: slice) -> Tensor:
            some = rows[part]
            leaf = drawn.patches.detach()[some].requires_grad_()
            losses = self._losses(leaf, _of(before, some))
            kept = (without_satisfied(losses, self._threshold) * drawn.weights[some]).sum()
            (gradient[some],) = torch.autograd.grad(weight * kept, leaf)
            return losses.detach()

        return gradient, self._in_parts(add, len(rows)) if len(rows) else drawn.weights[:0]

    def _losses(self, patches: Tensor, before: Tensor) -> Tensor:
        return direction_losses(unit(self._embed(patches)), before, self._direction)

    def _in_parts(self, call: Callable[[slice], Tensor], count: int) -> Tensor:
        def part(rows: BatchSlice) -> Tensor:
            return call(rows.rows)

        largest = CPU_PART if self._whole.device.type == "cpu" else count
        return torch.cat(in_parts(part, count, host=self._host, name="patches", largest=largest))


def _of(before: Tensor, rows: slice | Tensor) -> Tensor:
    return before if len(before) == 1 else before[rows]
