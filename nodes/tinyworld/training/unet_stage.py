"""Stage `unet`: the denoiser, with the attention of the object words supervised by the objects' masks.

The world's masks are exact, so the words can be tied to their places from the first step: Focus and Cover on the
log-odds of each object's words, in every cross-attention layer, weighted by the share of signal left at that noise
level (nothing can be localised in pure noise). It binds colours and shapes to objects as well as finding them.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...engine.attention.losses import cover_loss, focus_loss
from ...engine.attention.tap import AttentionTap
from ..networks import new_unet, scheduler
from ..tokenizer import load_tokenizer
from .pool import lone_objects

GROUPS = 3  # objects of a scene, at most
ATTENTION_EVERY = 6  # steps between two that look at the attention: it is learnt sooner than shapes are
NOTCHED = ("star", "cross")  # learnt last: their arms are as narrow as one cell of the latent grid
HEAVIEST = 8.0  # largest weight of a noise level, before the mean is set to about 1


@dataclass
class Caption:
    """A caption and, per named object, its words and its index in the scene."""

    text: str
    phrases: list[tuple[str, int]]


def draw_caption(fact: dict, random: np.random.Generator) -> Caption:
    """A caption of a scene: objects in any order, now and then without colours, background or some of the objects."""
    order = [int(i) for i in random.permutation(len(fact["objects"]))]
    if len(order) > 1 and random.random() < 0.15:
        order = order[: int(random.integers(1, len(order)))]
    shapes = [fact["objects"][i][0] for i in range(len(fact["objects"]))]
    bare = random.random() < 0.2 and len(set(shapes)) == len(shapes)
    phrases = [(shapes[i] if bare else f"{fact['objects'][i][1]} {shapes[i]}", i) for i in order]
    article = "the" if random.random() < 0.1 else "a"
    text = " and ".join(f"{article} {phrase}" for phrase, _ in phrases)
    return Caption(text + (f" on {fact['background']} background" if random.random() < 0.75 else ""), phrases)


def _positions(ids: list[int], words: list[int]) -> list[int]:
    for start in range(len(ids) - len(words) + 1):
        if ids[start : start + len(words)] == words:
            return list(range(start, start + len(words)))
    raise ValueError(f"tokens {words} do not occur in {ids}")


class TextBatch:
    """Captions of a batch as token ids, text states, word groups and valid words."""

    def __init__(self, text_tower: Any) -> None:
        self.tower, self.tokenizer = text_tower.eval().requires_grad_(False), load_tokenizer()
        self.words: dict[str, list[int]] = {}

    def _ids(self, phrase: str) -> list[int]:
        if phrase not in self.words:
            self.words[phrase] = self.tokenizer(phrase)["input_ids"][1:-1]
        return self.words[phrase]

    @torch.no_grad()
    def states(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids `[B,77]` and states `[B,77,128]`."""
        device = next(self.tower.parameters()).device
        ids = self.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"].to(device)
        return ids, self.tower(input_ids=ids).last_hidden_state

    def groups(self, ids: Tensor, captions: list[Caption]) -> tuple[Tensor, Tensor, Tensor]:
        """Word groups bool `[B,3,77]`, valid words bool `[B,77]` and weights `[B,3]`.

        A place without an object points at the first position with weight 0: the kernel wants no group empty.
        """
        end = self.tokenizer.eos_token_id
        groups = torch.zeros(len(captions), GROUPS, ids.shape[1], dtype=torch.bool)
        valid, weight = torch.zeros(ids.shape, dtype=torch.bool), torch.zeros(len(captions), GROUPS)
        for row, (tokens, caption) in enumerate(zip(ids.tolist(), captions, strict=True)):
            valid[row, 1 : max(tokens.index(end), 3)] = True
            groups[row, :, 1] = True
            for phrase, index in caption.phrases:
                groups[row, index] = False
                groups[row, index, _positions(tokens, self._ids(phrase))] = True
                weight[row, index] = 1.0
        return groups, valid, weight


def attention_loss(maps: dict[str, Tensor], masks: Tensor, weight: Tensor) -> Tensor:
    """Focus plus Cover over layers and objects; maps `[B,3,h,w]` per layer, masks `[B,3,16,16]`, weight `[B,3]`."""
    total = masks.new_zeros(())
    for log_odds in maps.values():
        target = F.adaptive_avg_pool2d(masks, (log_odds.shape[-2], log_odds.shape[-1]))
        per_object = 0.2 * focus_loss(log_odds, target) + cover_loss(log_odds, target)
        total = total + (per_object * weight).sum() / weight.sum().clamp_min(1)
    return total / max(1, len(maps))


def noise_weight(alpha_bar: Tensor) -> Tensor:
    """Weight of a noise error by its level, in any shape: v-prediction's (Salimans and Ho 2022), 1 / alpha_bar, capped.

    Plain noise errors are smallest where words decide which shape is drawn, so that their gradient is lost beside those
    of the fine steps.
    """
    return (1 / alpha_bar).clamp(max=HEAVIEST) / (HEAVIEST / 2)


def simple_scenes(facts: list[dict]) -> np.ndarray:
    """Numbers of the scenes with one object on a plain or graded ground, notched ones twice; all, if there is none."""
    plain_ground = [i for i in lone_objects(facts) if facts[i]["background"] in ("plain", "gradient")]
    notched = [i for i in plain_ground if facts[i]["objects"][0][0] in NOTCHED]
    return np.array(plain_ground + notched or range(len(facts)))


class UnetLoss:
    """Draws batches of latents and captions and scores the denoiser; `self(step)` is what `Trainer` calls."""

    def __init__(
        self,
        unet: nn.Module,
        text_tower: Any,
        latents: np.ndarray,
        masks: Tensor,
        facts: list[dict],
        size: int = 32,
        seed: int = 2,
        attention_weight: float = 0.03,
    ) -> None:
        self.unet, self.text = unet, TextBatch(text_tower)
        self.latents, self.masks, self.facts = latents, masks, facts
        self.size, self.seed, self.attention_weight = size, seed, attention_weight
        self.simple = simple_scenes(facts)
        self.device = next(unet.parameters()).device
        self.alphas = scheduler().alphas_cumprod.to(self.device)

    def _draw(self, random: np.random.Generator) -> np.ndarray:
        """Scene numbers; most of them from the simple scenes, where words show their meaning best."""
        simple = self.simple[random.integers(0, len(self.simple), self.size)]
        return np.where(random.random(self.size) < 0.7, simple, random.integers(0, len(self.latents), self.size))

    def _timesteps(self, random: np.random.Generator) -> Tensor:
        """Most from the middle, where words decide what is drawn; the rest from everywhere."""
        middle = random.random(self.size) < 0.7
        drawn = random.integers(np.where(middle, 250, 0), np.where(middle, 800, 1000))
        return torch.from_numpy(drawn).to(self.device)

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        index = self._draw(random)
        captions = [draw_caption(self.facts[i], random) for i in index]
        captions = [Caption("", []) if random.random() < 0.1 else c for c in captions]
        ids, states = self.text.states([c.text for c in captions])
        groups, valid, weight = (x.to(self.device) for x in self.text.groups(ids, captions))
        x0 = torch.from_numpy(self.latents[index]).float().to(self.device)
        t, noise = self._timesteps(random), torch.randn_like(x0)
        alpha_bar = self.alphas[t][:, None, None, None]
        x = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
        supervised = step % ATTENTION_EVERY == 0
        with AttentionTap(self.unet, groups=groups, valid=valid) if supervised else nullcontext() as tap:
            predicted = self.unet(x, t, states).sample
        error = ((predicted - noise).square() * noise_weight(alpha_bar)).mean()
        if tap is None:
            return error, {"denoise": float(error.detach())}
        attention = attention_loss(tap.maps, self.masks[index].to(self.device), weight * alpha_bar[:, 0, 0])
        numbers = {"denoise": float(error.detach()), "attention": float(attention.detach())}
        return error + self.attention_weight * ATTENTION_EVERY * attention, numbers


def build() -> nn.ModuleDict:
    """The trained modules of this stage."""
    return nn.ModuleDict({"unet": new_unet()})
