"""Things of one name that touch: attention marks them as one part, Segment Anything tells them apart.

SAM is asked at several points of the part, as its authors' automatic mask generator asks at a grid of points (Kirillov
et al., Segment Anything, ICCV 2023, appendix B): masks that lie in the part and hold enough that no better one holds
are its things. Quality decides first: the network's own estimate of a mask's IoU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...engine.region.inner_points import INSIDE, inner_points
from .sam import SamMask, SamPrompt, SamSegmenter

POINTS = 12  # asked per part
IN_PART = 0.5  # share of a mask that must lie in the part
NEW = 0.7  # share of a mask that no better one may hold
SMALLEST = 0.2  # share of the part below which a mask is a piece of a thing


def split_instances(part: Tensor, segmenter: SamSegmenter, index: int) -> list[SamMask]:
    """The things that a part `[H,W]` of a finder's mask consists of in picture `index`, the surest first.

    Fewer than two where SAM sees no more than one thing in it; the part itself is then the better description.
    """
    prompts = (SamPrompt(inside=(point,)) for point in inner_points(part, POINTS))
    return _distinct(
        sorted((segmenter.ask(index, prompt) for prompt in prompts), key=lambda answer: -answer.iou), part > INSIDE
    )


def _distinct(answers: Sequence[SamMask], part: Tensor) -> list[SamMask]:
    """Answers, the surest first, that are things of the part and not yet among those before."""
    taken, kept = torch.zeros_like(part), []
    for answer in answers:
        mask = (answer.soft > INSIDE).to(part.device)
        area, inside = int(mask.sum()), int((mask & part).sum())
        large = inside >= max(IN_PART * area, SMALLEST * int(part.sum()), 1)
        if large and int((mask & ~taken).sum()) >= NEW * area:
            kept.append(answer)
            taken |= mask
    return kept
