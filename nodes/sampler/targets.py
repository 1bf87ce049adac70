"""From regions and a prompt to supervised words: which tokens belong where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..engine.attention.losses import has_contrast, masks_on_grid
from ..engine.attention.supervision import AttentionTarget, LossSettings, Supervision
from ..engine.errors import RegionStyleError, wrong_input
from ..engine.language.region_prompt import noun_of, region_prompt
from ..engine.predictor.base import Text
from ..engine.predictor.tokens import find_tokens, shown_tokens
from ..engine.region.region import Region
from ..engine.region.regions import Regions
from .settings import GuidanceSettings


@dataclass(frozen=True, eq=False)
class Targets:
    """samples: per picture, the words that are held to a mask; notice: which tokens are which phrase's, one a line;
    unguided: a line for each region that guides nothing, "" for none."""

    samples: tuple[tuple[AttentionTarget, ...], ...]
    notice: str
    unguided: str

    def supervision(self, text: Text, settings: GuidanceSettings, size: tuple[int, int] | None = None) -> Supervision:
        """The losses of each picture; size: of the grid masks are compared on, the latent's (default: their own)."""
        return Supervision(self.samples, text.valid[:1].cpu(), loss_settings(settings), size)


def loss_settings(settings: GuidanceSettings) -> LossSettings:
    """The losses that guidance asks for.

    Log-odds are compared with each map's median, since a word of an untaught network may draw more attention than
    others everywhere; probabilities are stretched by their highest value, or they would have next to no gradient.
    """
    odds = settings.attention == "logodds"
    return LossSettings(
        settings.attention, settings.focus, settings.cover, settings.tau, settings.kappa,
        center="median", peak=not odds,
    )  # fmt: skip


def default_prompt(regions: Regions) -> str:
    """One prompt that names every region: "a red star in mosaic style and a cat in neon style"."""
    said = [words_of(region) for region in regions]
    return " and ".join(dict.fromkeys(said))


def words_of(region: Region) -> str:
    """The prompt of one region."""
    if region.style:
        return region_prompt([region.phrase], region.style)
    return f"a {noun_of(region.phrase) or region.phrase}"


def targets_of(text: Text, regions: Regions, words: str) -> Targets:
    """The supervised words of a prompt; words: one of `settings.WORDS`.

    Regions of the same tokens (two things in one style) are one target over both masks. RegionStyleError for a phrase
    that the prompt does not have, and where there are no regions at all.
    """
    if not len(regions):
        raise wrong_input("regions", "none", "one or more", "Make them from a mask, or find them by words.")
    found = {asked: _tokens(text, asked) for region in regions for asked in _asked(region, words)}
    samples = tuple(_sample(regions.of_image(image), found, words) for image in range(regions.batch))
    marked = {token for tokens in found.values() for token in tokens}
    lines = [f"{phrase!r}: tokens {', '.join(map(str, tokens))}" for phrase, tokens in found.items()]
    return Targets(samples, "\n".join([*lines, f"prompt: {shown_tokens(text, marked)}"]), unguided_of(regions))


def unguided_of(regions: Regions) -> str:
    """Why regions guide nothing, a line each; "" where all of them do."""
    lines = []
    for region in regions:
        if not bool(has_contrast(region.mask.float())):
            what = "an empty mask" if not bool((region.mask > 0).any()) else "a mask that is the same everywhere"
            where = f" in image {region.image}" if regions.batch > 1 else ""
            lines.append(f"{region.phrase!r}: {what}{where}, not guided")
    return "\n".join(dict.fromkeys(lines))


def area_masks(regions: Regions, size: tuple[int, int]) -> Tensor:
    """The masks of regions on a grid, `[B,R,h,w]`, nowhere summing to more than 1; a column per prompt (`words_of`)."""
    prompts = list(dict.fromkeys(words_of(region) for region in regions))
    masks = torch.zeros(regions.batch, len(prompts), *size)
    for region in regions:
        own = masks_on_grid(region.mask.float()[None, None], size)[0, 0].clamp(0, 1)
        column = prompts.index(words_of(region))
        masks[region.image, column] = torch.maximum(masks[region.image, column], own)
    return masks / masks.sum(1, keepdim=True).clamp_min(1)


def check_shape(regions: Regions, latent: Sequence[int]) -> None:
    """RegionStyleError unless the regions' pictures have the latent's shape, up to one of its cells."""
    height, width = latent[-2:]
    if abs(regions.height * width - regions.width * height) > max(regions.height, regions.width):
        got = f"pictures of {regions.width} x {regions.height}"
        accepts = f"the shape of the latent, {width} x {height}"
        raise wrong_input("regions", got, accepts, "Make the masks from a picture of the size that is sampled.")
    if regions.batch not in (1, latent[0]):
        accepts = f"1 or {latent[0]}, the number of latents"
        raise wrong_input("regions", f"{regions.batch} pictures", accepts, "Give one picture's regions, or all.")


def _asked(region: Region, words: str) -> list[str]:
    """What of a region is looked for in the prompt. RegionStyleError where it has nothing of the kind."""
    asked = [region.style] if region.style and words != "thing" else []
    asked += [region.phrase] if words != "style" else []
    if not asked:
        remedy = "Give the region a style, or supervise its thing."
        raise wrong_input("words", f"'style' for {region.phrase!r}, which has none", "a style", remedy)
    return asked


def _tokens(text: Text, phrase: str) -> tuple[int, ...]:
    """The tokens of a phrase, or else of the thing it names: "the leftmost cat" is in the prompt as "cat"."""
    try:
        return tuple(find_tokens(text, phrase))
    except RegionStyleError:
        noun = noun_of(phrase)
        if not noun or noun == phrase:
            raise
        try:
            return tuple(find_tokens(text, noun))
        except RegionStyleError:
            pass
        raise


def _sample(items: Sequence[Region], found: dict[str, tuple[int, ...]], words: str) -> tuple[AttentionTarget, ...]:
    merged: dict[tuple[int, ...], AttentionTarget] = {}
    for region in items:
        for phrase in _asked(region, words):
            tokens, mask = found[phrase], region.mask.float().cpu()
            before = merged.get(tokens)
            both = mask if before is None else torch.maximum(before.mask, mask)
            merged[tokens] = AttentionTarget(phrase, tokens, both)
    return tuple(merged.values())
