"""What attention is asked to look like: phrases with masks, and the Focus and Cover losses of one forward pass.

Four kinds of attention are supervised (RegionRoute, arXiv:2602.19254):

- "logodds": log-odds of a phrase's tokens against all other words (`kernels.token_logodds`), the default;
- "text": the phrase's share of a softmax over the prompt's words, mean over its tokens;
- "joint": the same over everything the place can attend to: the whole text and, where text and image are one sequence,
  all image tokens (the paper's quantity);
- "selected": one token at a time, out of a softmax over the supervised tokens only (the published code's quantity).
  Both losses are then least for the uninformative map wherever only one style is supervised: at any place the tokens'
  shares sum to 1, and the losses are convex. Here for comparison.

Tokens and masks are each sample's own; samples may have several phrases, and different numbers of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import wrong_input
from ..families.token_grid import Size
from .losses import (
    cover_loss,
    focus_loss,
    has_contrast,
    map_medians,
    masks_on_grid,
    reverse_focus_loss,
    usable_masks,
)
from .tap import AttentionTap, resized_map

KINDS = ("logodds", "text", "joint", "selected")
CENTERS = ("zero", "median")
AGGREGATIONS = ("layer", "paper")


@dataclass(frozen=True)
class LossSettings:
    """How the losses are computed.

    kind: of attention, one of `KINDS`; focus, cover: their weights in the total; tau: temperature of Focus; kappa:
    steepness of Cover (the papers' alpha); balanced: Cover weighs inside and outside alike; center: where Cover's
    sigmoid is a half, "zero" or each map's "median" (a word that draws more attention everywhere is no worse);
    peak: divide maps by their highest value, without a gradient: probabilities over thousands of keys are so small
    that Focus would be flat and its gradient nothing. aggregation: "layer", the losses of each layer, then their means
    over phrases and layers, as in the published code; "paper", as the paper writes it: layers averaged to one map per
    phrase before there is a loss, Focus as KL(map || mask), and the sum over phrases. band: half the width of the
    masks' border that is left out, in their values (`losses.sure_places`); 0 leaves nothing out.
    """

    kind: str = "logodds"
    focus: float = 1.0
    cover: float = 1.0
    tau: float = 1.0
    kappa: float = 1.0
    balanced: bool = True
    center: str = "zero"
    peak: bool = False
    aggregation: str = "layer"
    band: float = 0.0

    def __post_init__(self) -> None:
        choices = ("kind", self.kind, KINDS), ("center", self.center, CENTERS)
        for name, value, known in (*choices, ("aggregation", self.aggregation, AGGREGATIONS)):
            if value not in known:
                raise wrong_input(name, repr(value), f"one of {known}", "Choose one of these.")
        if not (self.tau > 0 and self.kappa > 0):
            got = f"{self.tau:g} and {self.kappa:g}"
            raise wrong_input("tau and kappa", got, "numbers above 0", "0.5 to 4 are usual.")
        if not 0 <= self.band < 0.5:
            raise wrong_input("band", self.band, "0 to below 0.5", "0.25 is usual; 0 leaves nothing out.")
        if self.aggregation == "paper" and self.kind == "selected":
            accepts = "one of the other kinds with the paper's aggregation"
            raise wrong_input("kind", repr(self.kind), accepts, "Single tokens have no map of their phrase.")


# The settings of the published training script: Focus with tau 0.1 and weight 0.1, Cover with alpha 2 and weight 5e-5.
PUBLISHED = LossSettings("selected", focus=0.1, cover=5e-5, tau=0.1, kappa=2.0, balanced=False)
# The paper's own quantity, aggregation and weights; its tau and alpha are not stated, so they are the script's.
PAPER = LossSettings("joint", focus=0.1, cover=0.2, tau=0.1, kappa=2.0, balanced=False, aggregation="paper")


@dataclass(frozen=True, eq=False)
class AttentionTarget:
    """One phrase of one sample: its words, for messages; the positions of its tokens; where it belongs, `[H,W]`."""

    phrase: str
    tokens: tuple[int, ...]
    mask: Tensor


@dataclass(frozen=True, eq=False)
class AttentionLoss:
    """Both losses of one pass, 0-dimensional, and their weighted sum; counted: phrases of all samples that count."""

    focus: Tensor
    cover: Tensor
    total: Tensor
    counted: int


class Supervision:
    """The phrases of a batch.

    skipped: those whose masks have no contrast, as (sample, phrase); they take no part. groups bool `[B,G,M]`, valid
    bool `[B,M]` or None and `quantity` are what an `AttentionTap` sees them by (`tap`); masks `[B,G,h,w]`, zeros for
    groups that only fill up.
    """

    def __init__(
        self,
        samples: Sequence[Sequence[AttentionTarget]],
        valid: Tensor,
        settings: LossSettings | None = None,
        size: Size | None = None,
    ) -> None:
        """valid: bool `[M]` or `[B,M]`, the words of each prompt; size: of the masks, where they are to be compared
        on one grid (default: the first one's). RegionStyleError for tokens that are no positions of words, and, for
        log-odds, for a phrase that is all of its prompt."""
        self.settings = settings or LossSettings()
        words = valid.cpu().expand(len(samples), -1)
        self.skipped = [
            (number, target.phrase)
            for number, sample in enumerate(samples)
            for target in sample
            if not bool(has_contrast(target.mask.float()))
        ]
        self.samples = tuple(
            tuple(target for target in sample if bool(has_contrast(target.mask.float()))) for sample in samples
        )
        own = next((t.mask.shape for sample in self.samples for t in sample), (1, 1))
        self.size: Size = size or (int(own[0]), int(own[1]))
        for number, sample in enumerate(self.samples):
            for target in sample:
                self._check(target, words[number])
        self._lay_out(words)

    @property
    def phrases(self) -> list[str]:
        """The phrases of the first sample that take part, in their order."""
        return [target.phrase for target in self.samples[0]] if self.samples else []

    @property
    def active(self) -> Tensor:
        """Which groups are supervised, bool `[B,G]`; the others only fill up."""
        return self._weights > 0

    @property
    def quantity(self) -> str:
        """The tap's name for what it sees."""
        return {"logodds": "logodds", "joint": "joint"}.get(self.settings.kind, "share")

    def tap(self, target: Any, layers: Collection[str] | None = None, **options: Any) -> AttentionTap:
        """A tap on a predictor or network that sees what is supervised."""
        return AttentionTap(
            target, groups=self.groups, valid=self.valid, quantity=self.quantity, layers=layers, **options
        )

    def loss(self, maps: Mapping[str, Tensor], weights: Mapping[str, float] | None = None) -> AttentionLoss:
        """The losses of maps `[B,G,h,w]` by layer: mean over each phrase's tokens, phrases, samples, then layers.

        weights: of layers by their paths (default: all alike). Samples and layers without a usable mask are left out
        of the means. RegionStyleError where there is no map.
        """
        if not maps:
            raise wrong_input("maps", "none", "one or more", "Run a forward pass inside the tap.")
        focus, cover, weight = [], [], []
        if self.settings.aggregation == "paper":
            maps, weights = {"mean": _mean_map(maps, weights)}, None
        for path, seen in maps.items():
            layer = self._of_layer(seen)
            if layer is not None:
                focus.append(layer[0])
                cover.append(layer[1])
                weight.append(1.0 if weights is None else weights.get(path, 0.0))
        if not sum(weight):
            nothing = next(iter(maps.values())).sum() * 0
            return AttentionLoss(nothing, nothing, nothing, 0)
        shares = torch.tensor(weight, dtype=focus[0].dtype, device=focus[0].device) / sum(weight)
        means = [(torch.stack([one.to(shares.device) for one in each]) * shares).sum() for each in (focus, cover)]
        total = self.settings.focus * means[0] + self.settings.cover * means[1]
        return AttentionLoss(means[0], means[1], total, sum(map(len, self.samples)))

    def of_phrases(self, maps: Tensor) -> Tensor:
        """Maps `[B,G,h,w]` of the groups, of all samples or the first ones -> one map per phrase `[B,P,h,w]`: the mean
        of its tokens'."""
        owner = self._owner[: len(maps)].to(maps.device)
        mean = owner.to(maps.dtype) / owner.sum(-1, keepdim=True).clamp_min(1)
        return torch.einsum("bpg,bghw->bphw", mean.expand(len(maps), -1, -1), maps)

    def rows(self, repeat: int) -> Supervision:
        """The same phrases for a batch that holds every sample so many times, one block after the other."""
        words = self._words.repeat(repeat, 1)
        return Supervision(list(self.samples) * repeat, words, self.settings, self.size)

    def with_kind(self, kind: str) -> Supervision:
        """The same phrases seen by another kind of attention."""
        return Supervision(self.samples, self._words, replace(self.settings, kind=kind), self.size)

    def _check(self, target: AttentionTarget, words: Tensor) -> None:
        if not target.tokens or not all(0 <= t < len(words) and bool(words[t]) for t in target.tokens):
            accepts = f"positions of words: {words.nonzero().flatten().tolist()}"
            raise wrong_input(f"tokens of {target.phrase!r}", list(target.tokens), accepts, "Use find_tokens.")
        if self.settings.kind == "logodds" and int(words.sum()) == len(set(target.tokens)):
            accepts = "a prompt with other words beside it"
            raise wrong_input("prompt", f"only {target.phrase!r}", accepts, f"Use for example 'a {target.phrase}'.")

    def _lay_out(self, words: Tensor) -> None:
        """Groups, masks and weights as tensors, padded to the sample with the most."""
        each = self.settings.kind == "selected"
        columns = [
            [g for t in sample for g in (([i] for i in t.tokens) if each else [t.tokens])] for sample in self.samples
        ]
        count, length = max([1, *map(len, columns)]), words.shape[1]
        most = max([1, *map(len, self.samples)])
        self._words = words
        self.groups = torch.zeros(len(columns), count, length, dtype=torch.bool)
        self._owner = torch.zeros(len(columns), most, count, dtype=torch.bool)
        self._weights = torch.zeros(len(columns), count)
        self.masks = torch.zeros(len(columns), count, *self.size)
        support = words.clone()
        for row, (sample, groups) in enumerate(zip(self.samples, columns, strict=True)):
            group = 0
            for number, target in enumerate(sample):
                for _ in range(len(target.tokens) if each else 1):
                    self.groups[row, group, list(groups[group])] = True
                    self._owner[row, number, group] = True
                    self._weights[row, group] = 1 / (len(sample) * (len(target.tokens) if each else 1))
                    self.masks[row, group] = masks_on_grid(target.mask.float()[None, None], self.size)[0, 0]
                    group += 1
            if each and group:
                support[row] = self.groups[row].any(0)
            if not group:  # nothing is supervised here: any groups that can be computed, with weight 0
                support[row] = True
            # groups that pad, with weight 0: one token that has others beside it
            filler = self.groups[row, 0].clone() if group else torch.arange(length) == 0
            self.groups[row, group:] = filler
        self.valid = None if self.settings.kind == "joint" else support

    def _of_layer(self, seen: Tensor) -> tuple[Tensor, Tensor] | None:
        """Focus and Cover of one layer's maps; None where no mask is usable on its grid."""
        choice, seen = self.settings, seen.float() if seen.dtype.itemsize < 4 else seen
        masks = masks_on_grid(self.masks.to(seen), (seen.shape[-2], seen.shape[-1]))
        weight = self._weights.to(seen) * usable_masks(masks, choice.band)
        usable = weight.sum(1) > 0
        if not bool(usable.any()):
            return None
        if choice.kind in ("text", "joint"):
            seen = seen / self.groups.sum(-1).to(seen)[..., None, None]
        if choice.peak:
            seen = seen / seen.detach().flatten(2).amax(-1).clamp_min(1e-12)[..., None, None]
        center = map_medians(seen) if choice.center == "median" else 0.0
        paper = choice.aggregation == "paper"
        focus = (reverse_focus_loss if paper else focus_loss)(seen, masks, choice.tau, band=choice.band)
        cover = cover_loss(
            seen, masks, choice.kappa, balanced=choice.balanced, center=center, band=choice.band
        )  # fmt: skip
        share = (weight > 0).to(weight) if paper else weight / weight.sum(1, keepdim=True).clamp_min(1e-12)
        return (focus * share).sum(1)[usable].mean(), (cover * share).sum(1)[usable].mean()


def _mean_map(maps: Mapping[str, Tensor], weights: Mapping[str, float] | None) -> Tensor:
    """The weighted mean of layers' maps `[B,G,h,w]` on the finest of their grids."""
    each = [1.0 if weights is None else weights.get(path, 0.0) for path in maps]
    size = max(((seen.shape[-2], seen.shape[-1]) for seen in maps.values()), key=lambda grid: grid[0] * grid[1])
    device, total = next(iter(maps.values())).device, sum(each) or 1.0
    seen = [resized_map(one, size).to(device) * (share / total) for one, share in zip(maps.values(), each, strict=True)]
    return torch.stack(seen).sum(0)
