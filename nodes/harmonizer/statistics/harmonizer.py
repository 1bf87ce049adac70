"""The classical methods as harmonisers."""

from __future__ import annotations

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ..base import OnStep, check_composite
from .areas import area, check_reference, goal_area
from .methods import METHODS


class StatisticsHarmonizer:
    """Gives the foreground the colour statistics of the background, or of a reference, by one of `METHODS`.

    strength: 0 leaves the foreground as it is, 1 matches the statistics.
    """

    def __init__(self, method: str = "reinhard", strength: float = 1.0) -> None:
        """RegionStyleError for an unknown method or a strength outside 0..1."""
        if method not in METHODS:
            raise wrong_input("method", repr(method), f"one of {', '.join(METHODS)}", "Choose one of these.")
        if not 0 <= strength <= 1:
            raise wrong_input("strength", strength, "0 to 1", "1 matches the statistics fully.")
        self.method, self.strength = method, strength

    def harmonize(
        self,
        composite: Tensor,
        mask: Tensor,
        *,
        reference: Tensor | None = None,
        reference_mask: Tensor | None = None,
        seed: int = 0,
        on_step: OnStep | None = None,
    ) -> Tensor:
        """See `Harmonizer.harmonize`. RegionStyleError where one of the areas has too few pixels for statistics."""
        check_composite(composite, mask)
        check_reference(reference, reference_mask, len(composite))
        results = []
        for index, (picture, region) in enumerate(zip(composite, mask, strict=True)):
            at = index if reference is not None and len(reference) > 1 else 0
            guide = None if reference is None else reference[at].to(picture)
            guide_mask = None if reference_mask is None else reference_mask[at].to(picture)
            results.append(self._one(picture, region, guide, guide_mask))
            if on_step is not None:
                on_step(index + 1, len(composite), results[-1])
        return torch.stack(results)

    def _one(self, picture: Tensor, mask: Tensor, reference: Tensor | None, reference_mask: Tensor | None) -> Tensor:
        mapped = METHODS[self.method](area(picture, mask, "mask"), goal_area(picture, mask, reference, reference_mask))
        inside = mask[0] > 0
        colours = picture[:, inside].T.double()
        result = picture.clone()
        changed = colours + self.strength * (mapped(colours).clamp(0, 1) - colours)
        result[:, inside] = changed.T.to(picture.dtype)
        return result
