"""The optimiser loop of one frame: a canvas follows the losses of its regions (LEAST, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .canvases import Canvas
from .objective import TERMS, RegionObjective, Terms
from .settings import LocalClipSettings


@dataclass
class History:
    """What happened, one entry per iteration: the weighted terms, summed over the regions, and their sum."""

    total: list[float] = field(default_factory=list)
    direction: list[float] = field(default_factory=list)
    patch: list[float] = field(default_factory=list)
    content: list[float] = field(default_factory=list)
    variation: list[float] = field(default_factory=list)

    def note(self, terms: Sequence[Terms]) -> None:
        """Add one iteration."""
        self.total.append(sum(one.total for one in terms))
        for name in TERMS:
            getattr(self, name).append(sum(one.values.get(name, 0.0) for one in terms))


class LocalOptimisation:
    """The state of one run on one frame; use inside `differentiable`.

    best: the picture `[1,3,h,w]` of the smallest loss so far, valid at any moment, also after a cancel.
    """

    def __init__(
        self, canvas: Canvas, objectives: Sequence[RegionObjective], settings: LocalClipSettings, history: History
    ) -> None:
        """objectives: one for every region, whose losses add up; history: is added to."""
        self._canvas, self._objectives, self._settings, self._history = canvas, objectives, settings, history
        self._optimizer = torch.optim.Adam(canvas.parameters, lr=settings.rate_at(0))
        self._smallest, self._content_since = float("inf"), 0
        self.iteration = 0
        self.best: Tensor | None = None

    @property
    def finished(self) -> bool:
        """Whether every patch has been satisfied for as long as the settings ask."""
        return 0 < self._settings.patience <= self._content_since

    def step(self) -> None:
        """One iteration. RegionStyleError when it has diverged."""
        picture = self._canvas.render()
        leaf = picture.detach().requires_grad_()
        terms = [objective.add_gradient(leaf) for objective in self._objectives]
        self._keep_best(leaf.detach(), sum(one.total for one in terms))
        self._optimizer.param_groups[0]["lr"] = self._settings.rate_at(self.iteration)
        self._optimizer.zero_grad(set_to_none=True)
        if leaf.grad is not None:  # None where every weight is 0
            picture.backward(leaf.grad)  # type: ignore[no-untyped-call]
            self._optimizer.step()
        self._canvas.keep_range()
        self._history.note(terms)
        self._content_since = self._content_since + 1 if all(one.satisfied == 1 for one in terms) else 0
        self.iteration += 1

    @torch.no_grad()
    def picture(self) -> Tensor:
        """The picture as it is now, `[1,3,h,w]` in 0..1."""
        return self._canvas.render().detach().clamp(0, 1)

    def _keep_best(self, picture: Tensor, loss: float) -> None:
        if loss < self._smallest:
            self._smallest, self.best = loss, picture.clone()
