"""The painter "words": the tiny world's denoiser edits by an instruction, and no mask says where.

All of the picture is drawn anew, so what is outside the thing is as near to what it was as the autoencoder gives it,
not bit for bit. With `composite` what was drawn is laid over the picture by the things' masks, and the rest stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...engine.errors import wrong_input
from ...engine.region.region import Region
from ...tinyworld.editing import EditingAdapter, WordsEdit, bundled_adapter, check_instruction, edit_by_words
from ...tinyworld.settings import WordsEditSettings
from ..edit import EditResult, EditSettings
from .registry import PainterContext, painter

FOLLOWED = ("seed", "steps", "cfg")
REDRAWN = "all of the picture was drawn anew: composite it to keep the rest bit for bit"


@dataclass(frozen=True)
class WordsPainter:
    """predictor: the tiny world's, on either host; adapter: what lets it edit; composite: keep the rest of a picture,
    by the regions' masks."""

    predictor: Any
    adapter: EditingAdapter
    composite: bool = False

    def check(self, region: Region, settings: EditSettings) -> None:
        """RegionStyleError for what the adapter was not taught, and for settings of painters that start from a part of
        the picture."""
        if given := [name for name in settings.chosen() if name not in FOLLOWED]:
            accepts = f"only {', '.join(FOLLOWED)}, since the whole picture is drawn anew"
            raise wrong_input("edit by words", "it with " + " and ".join(given), accepts, "Leave the others out.")
        check_instruction(region.phrase, region.style)

    def paint(self, image: Tensor, region: Region, settings: EditSettings) -> EditResult:
        """A picture `[1,3,128,128]` with one instruction followed."""
        return self.paint_together(image, [region], settings)

    def together(
        self, size: tuple[int, int], regions: Sequence[Region], settings: EditSettings
    ) -> list[Sequence[Region]]:
        """All of them: between two the picture is not decoded."""
        return [list(regions)] if regions else []

    def paint_together(self, image: Tensor, regions: Sequence[Region], settings: EditSettings) -> EditResult:
        """A picture `[1,3,128,128]` with several instructions followed, one after the other."""
        return self.painted(image, regions, settings)[0]

    def painted(self, image: Tensor, regions: Sequence[Region], settings: EditSettings) -> tuple[EditResult, WordsEdit]:
        """The same, and where the words looked."""
        asked = list(dict.fromkeys((region.phrase, region.style) for region in regions))
        chosen = WordsEditSettings(**{k: v for k, v in settings.chosen().items() if k in FOLLOWED})
        made = edit_by_words(self.predictor, self.adapter, image, asked, chosen)
        drawn = made.images.to(image)
        if not self.composite:
            return EditResult(drawn, torch.ones_like(image[:, 0]), tuple(regions), notes=(REDRAWN,)), made
        mask = torch.stack([region.mask for region in regions]).amax(0)[None].to(image)
        kept = torch.where(mask[:, None] > 0, torch.lerp(image, drawn, mask[:, None]), image)
        return EditResult(kept, mask, tuple(regions)), made


@painter("words")
def words_painter(context: PainterContext) -> WordsPainter:
    """The tiny world with the adapter that ships. RegionStyleError for another model."""
    if not context.model.tiny:
        accepts, remedy = "--model tinyworld", "Use --method expert with your own model."
        raise wrong_input("--method", "'edit' with another model", accepts, remedy)
    predictor = context.model.predictor
    return WordsPainter(predictor, bundled_adapter(predictor.network), context.composite)
