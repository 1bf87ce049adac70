"""Poisson blending as a harmoniser: the foreground's own differences, the background's values at the border."""

from __future__ import annotations

from torch import Tensor

from ..engine.region.seamless import seamless
from .base import OnStep, check_composite, check_has_surroundings
from .statistics.areas import check_no_reference, too_few


class PoissonHarmonizer:
    """Perez, Gangnet, Blake 2003. What the foreground was cut from is not known: no difference across the border."""

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
        """See `Harmonizer.harmonize`; there is no reference for it: RegionStyleError when one is given.

        And for a mask without anything above 0.5, which is what is blended, or without anything outside.
        """
        check_composite(composite, mask)
        check_no_reference("Poisson blending", reference, reference_mask)
        check_has_surroundings(mask)
        if not bool((mask > 0.5).flatten(1).any(1).all()):
            raise too_few("mask, above 0.5", 0, True)
        return seamless(composite, composite, mask)
