"""Stage `editing`: the adapter that edits by words, on exact local pairs.

A pair is a scene and the same scene with one object filtered inside its exact mask. The network is shown the first,
reads "make the red star mosaic", and learns to denoise the second. Where nothing is asked for, or something that is not
there, the second is the first. The attention of the object's and of the style's words is held to the mask in some steps
(RegionRoute, arXiv:2602.19254: Focus and Cover on log-odds).
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...engine.attention.supervision import AttentionTarget, LossSettings, Supervision
from ..editing import EditingAdapter
from ..networks import scheduler
from ..shapes import SHAPES
from ..styles import STYLES
from ..world import COLORS, restyle_object
from .latents import encode
from .pool import Pool
from .unet_stage import ATTENTION_EVERY, Caption, TextBatch

ATTENTION = LossSettings("logodds", focus=0.006, cover=0.03)  # small beside the error, which decides the picture
STRONGEST = 3.0  # sigma / alpha up to which an error counts in full
BARE, NOTHING, ABSENT = 0.3, 0.05, 0.08  # shares: a shape without its colour, no instruction, a thing that is not there


def drawn_pair(fact: dict, index: int) -> tuple[int, str]:
    """Which object of the pool's scene `index` is restyled, and how; it follows from the index alone."""
    random = np.random.default_rng([17, index])
    return int(random.integers(len(fact["objects"]))), str(list(STYLES)[int(random.integers(len(STYLES)))])


def thing_words(fact: dict, thing: int, random: np.random.Generator) -> str:
    """ "red star", or "star" now and then where there is one only."""
    shape, color, _ = fact["objects"][thing]
    alone = [other[0] for other in fact["objects"]].count(shape) == 1
    return shape if alone and random.random() < BARE else f"{color} {shape}"


def absent_thing(fact: dict, random: np.random.Generator) -> str:
    """A colour and a shape of which no object has both."""
    there = {(color, shape) for shape, color, _ in fact["objects"]}
    while True:
        color, shape = str(random.choice(list(COLORS))), str(random.choice(list(SHAPES)))
        if (color, shape) not in there:
            return f"{color} {shape}"


def edited_latents(path: Path, vae: Any, pool: Pool, count: int) -> np.ndarray:
    """Latents `[count,4,16,16]` float16 of the pool's scenes with one object restyled, kept in `path`."""
    if path.exists() and len(kept := np.load(path)) >= count:
        return kept[:count]  # type: ignore[no-any-return]
    device, parts = next(vae.parameters()).device, []
    for start in range(0, count, 32):
        numbers = range(start, min(start + 32, count))
        made = [restyle_object(pool.scene(i), *drawn_pair(pool.facts[i], i)).image for i in numbers]
        parts.append(encode(vae, np.stack(made), device))
    latents = np.concatenate(parts)
    np.save(path, latents)
    return latents


class EditingLoss:
    """Draws pairs and scores the denoiser with its adapter; `self(step)` is what `Trainer` calls.

    source, edited: latents `[N,4,16,16]` of the same scenes; masks `[N,3,16,16]`: of their objects. attention: how the
    words' attention is held to the masks (None: not at all), in layers of these paths (None: all).
    """

    def __init__(
        self,
        unet: nn.Module,
        adapter: EditingAdapter,
        text_tower: Any,
        source: np.ndarray,
        edited: np.ndarray,
        masks: Tensor,
        facts: list[dict],
        size: int = 16,
        seed: int = 5,
        attention: LossSettings | None = ATTENTION,
        layers: Collection[str] | None = None,
    ) -> None:
        self.unet, self.adapter, self.text = unet, adapter, TextBatch(text_tower)
        self.source, self.edited, self.masks, self.facts = source, edited, masks, facts
        self.size, self.seed = size, seed
        self.attention, self.layers = attention, layers
        self.device = next(unet.parameters()).device
        self.alphas = scheduler().alphas_cumprod.to(self.device)

    def _captions(self, index: np.ndarray, random: np.random.Generator) -> tuple[list[Caption], Tensor, np.ndarray]:
        """What is asked for; where: the object's mask for its own words and for the style's; and which rows ask for
        nothing that could be done."""
        captions, places = [], torch.zeros(len(index), 3, *self.masks.shape[-2:])
        idle = random.random(len(index)) < NOTHING + ABSENT
        for row, i in enumerate(index):
            fact, (thing, style) = self.facts[i], drawn_pair(self.facts[i], int(i))
            if idle[row]:
                absent = f"make the {absent_thing(fact, random)} {style}"
                captions.append(Caption("" if random.random() < NOTHING / (NOTHING + ABSENT) else absent, []))
                continue
            words = thing_words(fact, thing, random)
            end = " style" if random.random() < 0.3 else ""
            captions.append(Caption(f"make the {words} {style}{end}", [(words, 0), (style, 1)]))
            places[row, :2] = self.masks[i, thing]
        return captions, places, idle

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        index = random.integers(0, len(self.edited), self.size)
        captions, places, idle = self._captions(index, random)
        ids, states = self.text.states([caption.text for caption in captions])
        supervision = self._supervision(step, captions, ids, places)
        wanted = np.where(idle[:, None, None, None], self.source[index], self.edited[index])
        z, s = (torch.from_numpy(x).float().to(self.device) for x in (self.source[index], wanted))
        t = torch.from_numpy(random.integers(0, 1000, self.size)).to(self.device)
        alpha_bar, noise = self.alphas[t][:, None, None, None], torch.randn_like(s)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x = alpha * s + sigma * noise
        looking = nullcontext() if supervision is None else supervision.tap(self.unet, self.layers)
        with looking as tap, self.adapter.showing(z):
            predicted = self.unet(x, t, states).sample
            clean = self.adapter.blended((x - sigma * predicted) / alpha)
        # In units of the edited latent, bounded where the noise is strong: there the shown picture tells it.
        level = 1 / (sigma / alpha / STRONGEST).clamp(min=1.0) ** 2 + (0.05 * (alpha / sigma) ** 2).clamp(max=1.0)
        error = ((clean - s).square() * level).mean()
        numbers = {"clean": float(error.detach())}
        if supervision is None:
            return error, numbers
        assert tap is not None  # whoever supervises looks
        seen = supervision.loss(tap.maps)
        return error + seen.total, {"focus": float(seen.focus.detach()), "cover": float(seen.cover.detach())}

    def _supervision(self, step: int, captions: list[Caption], ids: Tensor, places: Tensor) -> Supervision | None:
        """What the attention of a step's captions is to look like; None in steps that do not look at it."""
        if self.attention is None or step % ATTENTION_EVERY:
            return None
        groups, valid, _ = self.text.groups(ids, captions)
        samples = [
            [AttentionTarget(words, _positions(groups[row, at]), places[row, at]) for words, at in caption.phrases]
            for row, caption in enumerate(captions)
        ]
        return Supervision(samples, valid, self.attention, (places.shape[-2], places.shape[-1]))


def _positions(marks: Tensor) -> tuple[int, ...]:
    return tuple(marks.nonzero().flatten().tolist())
