"""Poisson blending as a harmoniser: the foreground's own differences, the background's values at the border."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...kernels import poisson_blend
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
        return poisson_blend(grown_foreground(composite, mask), composite, mask).clamp(0, 1)


def grown_foreground(composite: Tensor, mask: Tensor) -> Tensor:
    """The composite, its foreground grown by one pixel: what is beside it gets the mean of its neighbours inside."""
    inside = (mask > 0.5).to(composite)
    cross = composite.new_tensor([[0, 1, 0], [1, 0, 1], [0, 1, 0]]).expand(4, 1, 3, 3)
    around = F.conv2d(F.pad(torch.cat([composite * inside, inside], 1), [1] * 4), cross, groups=4)
    beside = (inside == 0) & (around[:, 3:] > 0)
    return torch.where(beside, around[:, :3] / around[:, 3:].clamp_min(1), composite)
