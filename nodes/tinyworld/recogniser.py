"""What a crop shows, by the tiny world's measuring CLIP: is the thing that the words name really there?"""

from __future__ import annotations

from functools import cached_property, lru_cache
from itertools import product

import torch
from torch import Tensor

from ..engine.region.region import Box
from .clip import TinyClip, region_crop
from .shapes import SHAPES
from .tokenizer import known
from .world import COLORS

# Words of a phrase that leave the shape open: "the red object" is a red thing of any shape.
ANY_SHAPE = ("object", "shape")


class TinyRecogniser:
    """Tells the things of the tiny world (8 colours of 8 shapes) apart; see `engine/predictor/recogniser.py`.

    The networks are read when they are first asked for.
    """

    # On 500 held-out scenes (`regionstyle evaluate masks`) present things lie above, absent ones below.
    least = 0.35

    @cached_property
    def _clip(self) -> TinyClip:
        return TinyClip()

    @cached_property
    def _pairs(self) -> list[str]:
        return [f"{color} {shape}" for color, shape in product(COLORS, SHAPES)]

    @cached_property
    def _texts(self) -> Tensor:
        return self._clip.embed_texts([f"a {pair}" for pair in self._pairs])

    def unknown_words(self, phrase: str) -> list[str]:
        """Words that fall apart into letters in this world's tokenizer."""
        return [word for word in phrase.split() if not known(word)]

    def vocabulary(self) -> str:
        return f"shapes ({', '.join(SHAPES)}) and colours ({', '.join(COLORS)})"

    def probability(self, image: Tensor, box: Box, phrase: str) -> float:
        """The share of what the phrase can mean: "triangle" is a triangle of any colour.

        The alternatives are all pairs; for a pair also two things side by side, the pair beside any other thing on one
        hand, and on the other two things of which one has its colour and the other its shape. A phrase without colour
        and shape ("leaves") stands beside all pairs as one more.
        """
        meant = self._meant(phrase)
        if not meant:
            own = self._clip.embed_texts([f"a {phrase.lower()}"])
            return float(self._shares(image, box, torch.cat([self._texts, own]))[-1])
        alone = self._shares(image, box, self._texts)
        beside, mixed = self._two_things(phrase)
        if not len(beside):
            return float(alone[meant].sum())
        shares = self._shares(image, box, torch.cat([self._texts, beside, mixed]))
        together = float(shares[meant].sum() + shares[len(self._texts) : len(self._texts) + len(beside)].sum())
        # Where one pair alone is likelier than the phrase's, the crop holds a word of the phrase, and not the thing.
        seen = int(alone.argmax()) in meant
        return max(together, float(alone[meant].sum())) if seen else min(together, float(alone[meant].sum()))

    def completions(self, image: Tensor, phrase: str) -> list[str]:
        """A shape in every colour; a colour alone is found well enough."""
        if not self._words(phrase) & set(SHAPES):
            return []
        meant = self._meant(phrase)
        whole = (0, 0, image.shape[-1], image.shape[-2])
        shares = self._shares(image, whole, self._texts)
        return [self._pairs[at] for at in sorted(meant, key=lambda at: -float(shares[at]))] if len(meant) > 1 else []

    def _words(self, phrase: str) -> set[str]:
        return set(phrase.lower().split()) - set(ANY_SHAPE)

    def _meant(self, phrase: str) -> list[int]:
        """The pairs that hold all the phrase's words; empty where it names neither a colour nor a shape."""
        words = self._words(phrase)
        if words and not words & {*COLORS, *SHAPES}:
            return []
        return [at for at, pair in enumerate(self._pairs) if words <= set(pair.split())]

    @lru_cache(maxsize=64)  # noqa: B019 (one object per loaded model, a few kilobytes a phrase)
    def _two_things(self, phrase: str) -> tuple[Tensor, Tensor]:
        """Texts `[T,128]` of the phrase's pair beside another thing, and of two things that share its words out; none
        where the phrase is no pair."""
        words = self._words(phrase)
        colors, shapes = [c for c in COLORS if c in words], [s for s in SHAPES if s in words]
        if not (colors and shapes):
            return self._texts[:0], self._texts[:0]
        (color, *_), (shape, *_) = colors, shapes
        others = [(c, s) for c, s in product(COLORS, SHAPES) if c != color and s != shape]
        beside = self._clip.embed_texts([f"a {color} {shape} and a {c} {s}" for c, s in others])
        mixed = self._clip.embed_texts([f"a {color} {s} and a {c} {shape}" for c, s in others])
        return beside, mixed

    def describe(self, image: Tensor, box: Box) -> str:
        """The likeliest pair of colour and shape."""
        return self._pairs[int(self._shares(image, box, self._texts).argmax())]

    @torch.no_grad()
    def _shares(self, image: Tensor, box: Box, texts: Tensor) -> Tensor:
        """The probability of each text `[T]`; they sum to 1."""
        crop = self._clip.embed_images(region_crop(image.detach().cpu(), box))
        return (self._clip.scale * (crop @ texts.T)[0]).softmax(-1)
