"""Whether the words describe the place that attention found, and a second look where they do not.

Attention always answers: for a thing that is not there it marks the place that fits least badly. So what was found is
shown to the predictor's recogniser. If that reads something else there, this something is named as well and attention
looks again, where both words compete; a thing that nothing can be found for is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.language.nouns import with_article
from ...engine.predictor.recogniser import Recogniser
from ...engine.region.region import Box, mask_box
from ..masks.refine import mask_parts
from ..settings import AttentionSettings
from .attention import Grounding, mask_from_logodds

SURE = 0.8  # the probability from which a phrase that leaves something open is not looked for any further
FULLER = 4  # how many fuller phrases are tried for one that leaves something open
LOOKS = 4  # the first one, and one for each thing that was taken for the phrase's
SMALLEST_PART = 0.1  # of the largest part: smaller ones are specks
AS_GOOD = 0.1  # how much less likely than its best part a whole mask may be and still be taken as one thing

# Log-odds `[H,W]` of a phrase in a caption.
Look = Callable[[str, str], Tensor]


@dataclass(frozen=True)
class Shown:
    """What a recogniser makes of a mask: the parts that show the thing, their probability, and what the largest part
    shows when they do not ("" for an empty mask)."""

    mask: Tensor
    probability: float
    instead: str = ""


def check_known(phrase: str, recogniser: Recogniser) -> None:
    """RegionStyleError that names the words the model was never taught: whatever it found for them would be chance."""
    if unknown := recogniser.unknown_words(phrase):
        got = f"{phrase!r}, of which this model does not know {', '.join(repr(word) for word in unknown)}"
        raise wrong_input("phrase", got, recogniser.vocabulary(), "Use these words, or load a model for photographs.")


def shown_parts(image: Tensor, mask: Tensor, phrase: str, recogniser: Recogniser) -> Shown:
    """The parts of a mask `[H,W]` in which an image `[1,3,H,W]` shows the phrase."""
    parts = mask_parts(mask, SMALLEST_PART)
    if not parts:
        return Shown(mask, 0.0)
    boxes = [_box(part) for part in parts]
    likely = [recogniser.probability(image, box, phrase) for box in boxes]
    whole = recogniser.probability(image, _box(mask), phrase) if len(parts) > 1 else likely[0]
    if whole >= max(recogniser.least, max(likely) - AS_GOOD):
        return Shown(mask, whole)
    kept = [part for part, p in zip(parts, likely, strict=True) if p >= recogniser.least]
    if kept:
        return Shown(torch.stack(kept).amax(0), max(likely))
    return Shown(torch.zeros_like(mask), max(*likely, whole), recogniser.describe(image, boxes[0]))


def _box(mask: Tensor) -> Box:
    return mask_box(mask, min(0.5, float(mask.max()) / 2))


def find_present(
    look: Look,
    image: Tensor,
    phrase: str,
    recogniser: Recogniser,
    settings: AttentionSettings,
    competing: Sequence[Tensor] = (),
    caption: str | None = None,
) -> Grounding:
    """The phrase's mask in an image `[1,3,H,W]`, or none where nothing shows it; score: the recogniser's probability.

    competing: log-odds maps `[H,W]` of other things that were asked for; caption: the prompt of the first look. A
    phrase that leaves something open ("triangle") is looked for under fuller names too.
    """
    check_known(phrase, recogniser)
    best = _look_again(look, image, phrase, recogniser, settings, competing, caption)
    fuller = [] if best.found and best.score >= SURE else recogniser.completions(image, phrase)
    for name in fuller[:FULLER]:
        other = _look_again(look, image, name, recogniser, settings, competing, None)
        shown = shown_parts(image, other.mask, phrase, recogniser)
        if not shown.instead and shown.probability > best.score:
            best = replace(other, mask=shown.mask, score=shown.probability, found=True)
        if best.score >= SURE:
            break
    return best


def _look_again(
    look: Look,
    image: Tensor,
    phrase: str,
    recogniser: Recogniser,
    settings: AttentionSettings,
    competing: Sequence[Tensor],
    caption: str | None,
) -> Grounding:
    """Looks until what is found shows the phrase; what was taken for it is named beside it the next time."""
    best, others = None, list[str]()
    for _ in range(LOOKS):
        said = caption if caption and not others else " and ".join(map(with_article, (phrase, *others)))
        logodds = look(phrase, said)
        grounding = mask_from_logodds(logodds, settings, [*competing, *(look(name, said) for name in others)])
        shown = shown_parts(image, grounding.mask, phrase, recogniser)
        if best is None or shown.probability > best.score:
            found = bool((shown.mask > 0).any())
            best = replace(grounding, mask=shown.mask, score=shown.probability, found=found)
        if best.found or shown.instead in (*others, "") or set(phrase.split()) <= set(shown.instead.split()):
            break
        others.append(shown.instead)
    assert best is not None
    return best


def kept_if_sure(grounding: Grounding, least: float) -> Grounding:
    """A grounding whose score is at least `least`, and an empty one otherwise, which keeps its score."""
    if grounding.score >= least:
        return grounding
    return replace(grounding, mask=torch.zeros_like(grounding.mask), found=False)
