"""Pairs encoded once: latents by the sample's own identity, words, and what attention is asked to look like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...engine.attention.losses import has_contrast, masks_on_grid, usable_masks
from ...engine.attention.supervision import AttentionTarget, Supervision
from ...engine.errors import RegionStyleError, wrong_input
from ...engine.families.token_grid import Size
from ...engine.predictor.base import NoisePredictor, Text
from ...engine.predictor.tokens import find_tokens
from ...engine.region.region import Region
from ...engine.region.regions import Regions
from ..targets import targets_of
from .held_out import LEVELS, apart, check_count, check_sources, split
from .pairs import Pair, SquarePair, read_square
from .settings import ExpertTrainSettings


@dataclass(frozen=True, eq=False)
class Example:
    """One pair, encoded. id: of its pixels, masks and words; latent, source `[C,h,w]`, after and before; area `[1,h,w]`
    in 0..1: what was restyled; targets: the supervised words; skipped: things whose masks say nothing; picture: of its
    pixels alone, so that the same under another prompt is known."""

    id: str
    prompt: str
    latent: Tensor
    source: Tensor
    area: Tensor
    targets: tuple[AttentionTarget, ...]
    skipped: tuple[str, ...]
    picture: str


@dataclass(frozen=True, eq=False)
class PairDraw:
    """One sample of a step: the example, timestep 0..999 and noise `[C,h,w]`."""

    example: Example
    timestep: int
    noise: Tensor


@dataclass(frozen=True, eq=False)
class PairExamples:
    """The examples of a training; texts: by prompt, "" among them; mark: changes with any of them; held: those that
    the loss is measured on and nothing is learnt from, each once."""

    examples: Sequence[Example]
    texts: dict[str, Text]
    mark: str
    held: Sequence[Example] = ()

    def draw(self, seed: int, number: int) -> PairDraw:
        """Sample `number`: every pair once per round, in a new order each; it follows from seed and number alone."""
        count = len(self.examples)
        order = torch.randperm(count, generator=_generator(seed, 0, number // count))
        example, generator = self.examples[int(order[number % count])], _generator(seed, 1, number)
        timestep = int(torch.randint(1000, (), generator=generator))
        return PairDraw(example, timestep, torch.randn(example.latent.shape, generator=generator))

    def held_draws(self) -> list[PairDraw]:
        """Every held-out pair at every one of `LEVELS`, with noise that follows from the pair and the level alone."""
        return [_held_draw(example, timestep) for example in self.held for timestep in LEVELS]

    @property
    def skipped(self) -> list[str]:
        """A line for each thing that is not supervised."""
        return [f"{each.prompt!r}: {what}" for each in [*self.examples, *self.held] for what in each.skipped]


def _held_draw(example: Example, timestep: int) -> PairDraw:
    generator = _generator(2, int(example.id[:15], 16), timestep)
    return PairDraw(example, timestep, torch.randn(example.latent.shape, generator=generator))


def _generator(*numbers: int) -> torch.Generator:
    import numpy as np

    mixed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator().manual_seed(mixed)


def encode_pairs(
    predictor: NoisePredictor,
    pairs: Sequence[Pair],
    side: int,
    settings: ExpertTrainSettings,
    held: Sequence[Pair] = (),
) -> PairExamples:
    """Encode every picture and prompt; reports progress and can be cancelled at every pair.

    held: pairs to measure the loss on; without them those of `settings.validation` pictures are held out.
    Latents belong to their example, not to a place in an order: shuffling cannot mix them. RegionStyleError for no
    pairs, none left to train on, a side that the autoencoder cannot encode, and a prompt without the words that are to
    be supervised.
    """
    if settings.source == "shown":
        with predictor.showing(torch.zeros(1, predictor.latent_channels, 2, 2)):
            pass  # says now what network cannot be shown a picture
    if not pairs:
        raise wrong_input("pairs", "none", "one or more", "About 100 of a style are usual.")
    check_sources(settings.validation, len(held))
    if side < predictor.factor or side % predictor.factor:
        accepts = f"a multiple of {predictor.factor}"
        raise wrong_input("resolution", side, accepts, f"This model's own size is {predictor.native_size}.")
    if settings.validation:
        _check_enough(pairs, side, settings.validation)
    everything = [*pairs, *held]
    progress, kept = predictor.host.progress(len(everything), "encoding pairs"), {}
    with torch.no_grad(), predictor.loaded():
        prompts = dict.fromkeys([*(pair.prompt for pair in everything), ""])
        texts = {prompt: predictor.encode_text([prompt]) for prompt in prompts}
        order = []
        for number, pair in enumerate(everything, 1):
            square = read_square(pair, side)
            mark = _identity(pair, square)
            if mark not in kept:
                kept[mark] = _example(predictor, pair, square, texts[pair.prompt], mark, settings)
            order.append(kept[mark])
            progress.update(number)
    return _divided(order[: len(pairs)], order[len(pairs) :], texts, settings)


def _check_enough(pairs: Sequence[Pair], side: int, count: int) -> None:
    """RegionStyleError where no more than `count` pictures are different; reads as few as tell it."""
    seen: set[str] = set()
    for pair in pairs:
        if len(seen) > count:
            return
        seen.add(_digest(read_square(pair, side).pictures))
    check_count(count, len(seen))


def _divided(
    own: list[Example], held: list[Example], texts: dict[str, Text], settings: ExpertTrainSettings
) -> PairExamples:
    marks = [example.id for example in own] + (["held out", *(example.id for example in held)] if held else [])
    if settings.validation and len({one.picture for one in own}) < len(set(marks)):
        marks.append("by picture")  # no state is taken up that was saved when captions of one picture were parted
    digest = hashlib.sha256("\n".join(marks).encode()).hexdigest()
    trained, out = (own, apart(own, held)) if held else split(own, settings.validation, settings.seed)
    return PairExamples(trained, texts, digest, out)


def _identity(pair: Pair, square: SquarePair) -> str:
    digest = hashlib.sha256(repr((pair.prompt, [(thing.phrase, thing.style) for thing in pair.things])).encode())
    for tensor in (square.pictures, square.masks):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(pictures: Tensor) -> str:
    return hashlib.sha256(pictures.contiguous().numpy().tobytes()).hexdigest()


def _example(
    predictor: NoisePredictor, pair: Pair, square: SquarePair, text: Text, mark: str, settings: ExpertTrainSettings
) -> Example:
    latent, source = predictor.encode(square.pictures.to(predictor.host.device)).float().cpu()
    size = (latent.shape[-2], latent.shape[-1])
    area = masks_on_grid(square.masks.amax(0)[None, None], size)[0]
    skipped = tuple(
        f"{thing.phrase!r} {why}"
        for thing, mask in zip(pair.things, square.masks, strict=True)
        if (why := _useless(mask, size, settings.band))
    )
    targets = _targets(pair, square.masks, text, settings) if settings.supervised else ()
    Supervision([targets], text.valid[:1].cpu(), settings.losses, size)  # says now what cannot be supervised
    return Example(mark, pair.prompt, latent, source, area, targets, skipped, _digest(square.pictures))


def _grids(size: Size) -> list[Size]:
    """The latent's, and those of half, a quarter and an eighth of its rows and columns."""
    return [(max(1, size[0] // by), max(1, size[1] // by)) for by in (1, 2, 4, 8)]


def _useless(mask: Tensor, size: Size, band: float) -> str:
    """Why a mask `[h,w]` says nothing on a grid that attention may have; "" where it does on all."""
    if not bool(has_contrast(mask)):
        return "has a mask that is the same everywhere, not supervised"
    for grid in _grids(size) if band else ():
        if not bool(usable_masks(masks_on_grid(mask[None, None].float(), grid), band)):
            nothing = f"nothing that is surely inside, or outside, on a grid of {grid[1]} x {grid[0]} at band {band:g}"
            return f"has {nothing}, not supervised in layers of that size"
    return ""


def _targets(pair: Pair, masks: Tensor, text: Text, settings: ExpertTrainSettings) -> tuple[AttentionTarget, ...]:
    height, width = masks.shape[-2:]
    items = tuple(
        Region(thing.phrase, (0, 0, width, height), mask, _words(text, thing.style, settings))
        for thing, mask in zip(pair.things, masks, strict=True)
    )
    try:
        found = targets_of(text, Regions(items, height, width), settings.supervised_words)
    except RegionStyleError as error:
        raise RegionStyleError(f"pair {pair.name!r}: {error}") from error
    return found.samples[0]


def _words(text: Text, style: str, settings: ExpertTrainSettings) -> str:
    """The supervised words of a style: in the paper's losses with the word "style" behind them, if it is there."""
    if settings.preset != "paper":
        return style
    try:
        find_tokens(text, f"{style} style")
    except RegionStyleError:
        return style
    return f"{style} style"
