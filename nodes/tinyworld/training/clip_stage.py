"""Stages `clip` and `measure`: text tower and image tower, contrastive, on scenes, styled scenes and object crops.

`clip` trains both towers; the denoiser then reads that text tower, which is not changed again. `measure` goes on with
copies of both, with more captions about styles: the CLIP that results pictures are measured with.

A caption may fit several pictures of a batch ("a picture in mosaic style"), so positives are not only the diagonal:
every picture that has all the facts a caption states counts as its positive (soft targets over the positives).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..networks import new_image_tower, new_text_tower
from ..styles import STYLES, apply_style
from ..tokenizer import load_tokenizer
from ..world import SIZE, Scene, SceneObject, restyle_object
from .pool import Pool


@dataclass
class Pair:
    """A picture `[128,128,3]` with everything that is true of it, a caption and what the caption states."""

    image: np.ndarray
    facts: frozenset[str]
    caption: str
    stated: frozenset[str]


def crop_object(image: np.ndarray, box: tuple[int, int, int, int], margin: float) -> np.ndarray:
    """The square around a box, grown by `margin` of its side, resized to 128 px; `[H,W,3]` in 0..1."""
    from PIL import Image

    x0, y0, x1, y1 = box
    side = min(max(x1 - x0, y1 - y0, 8) * (1 + margin), image.shape[0], image.shape[1])
    left = min(max((x0 + x1 - side) / 2, 0), image.shape[1] - side)
    top = min(max((y0 + y1 - side) / 2, 0), image.shape[0] - side)
    picture = Image.fromarray((np.clip(image, 0, 1) * 255).round().astype(np.uint8))
    area = (left, top, left + side, top + side)
    made = picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=area)
    return np.asarray(made, dtype=np.float32) / 255


def _object_facts(thing: SceneObject, style: str | None) -> frozenset[str]:
    facts = {thing.phrase, thing.shape, thing.color, f"{style} {thing.phrase}", f"{style} {thing.shape}"}
    return frozenset(facts | ({f"has {style}"} if style else set()))


def _styled_scene(made: Scene, random: np.random.Generator) -> tuple[np.ndarray, list[str | None], str | None]:
    """Picture, style per object and style of the whole: unstyled, wholly styled, or one object styled."""
    kind, style = random.random(), str(random.choice(list(STYLES)))
    none: list[str | None] = [None] * len(made.objects)
    if kind < 0.35:
        return made.image, none, None
    if kind < 0.7:
        return apply_style(made.image, style), none, style
    index = int(random.integers(len(made.objects)))
    return restyle_object(made, index, style).image, [style if i == index else None for i in range(len(none))], None


def draw_pair(pool: Pool, random: np.random.Generator, style_share: float = 0.2) -> Pair:
    """One training pair; half of the pictures are crops around one object, `style_share` of the captions name only
    the style, where there is one."""
    made = pool.scene(int(random.integers(len(pool))))
    image, styles, whole = _styled_scene(made, random)
    things = list(zip(made.objects, styles, strict=True))
    if random.random() < 0.5:
        index = int(random.integers(len(things)))
        image = crop_object(image, made.objects[index].box, float(random.uniform(0, 0.8)))
        things = [things[index]]
    if random.random() < 0.5:
        image = image[:, ::-1]
    truth = frozenset().union(*(_object_facts(t, whole or s) for t, s in things))
    truth |= {f"on {made.background}"} | ({f"whole {whole}"} if whole else {"unstyled"} if not any(styles) else set())
    return _caption(np.ascontiguousarray(image), truth, things, whole, made.background, random, style_share)


def _caption(
    image: np.ndarray,
    truth: frozenset[str],
    things: list[tuple[SceneObject, str | None]],
    whole: str | None,
    ground: str,
    random: np.random.Generator,
    style_share: float,
) -> Pair:
    kind = random.random()
    style = whole or (things[0][1] if len(things) == 1 else None)
    if kind < style_share and style:
        return Pair(image, truth, f"a picture in {style} style", frozenset({f"has {style}"}))
    if kind < style_share / 2 and "unstyled" in truth:
        return Pair(image, truth, "a picture in plain style", frozenset({"unstyled"}))
    if kind < style_share + 0.15:
        thing = things[int(random.integers(len(things)))][0]
        return Pair(image, truth, f"a {thing.phrase}", frozenset({thing.phrase}))
    words = [f"a {t.phrase}" + (f" in {s} style" if s else "") for t, s in things]
    stated = {f"{s or whole} {t.phrase}" for t, s in things}
    caption = " and ".join(words)
    if random.random() < 0.6:
        caption, stated = f"{caption} on {ground} background", stated | {f"on {ground}"}
    if whole:
        caption, stated = f"{caption} in {whole} style", stated | {f"whole {whole}"}
    return Pair(image, truth, caption, frozenset(stated))


class ClipModules(nn.ModuleDict):
    """text: `CLIPTextModelWithProjection`; image: `ImageTower`; the temperature is learnt in log space."""

    def __init__(self) -> None:
        tokenizer = load_tokenizer()
        text = new_text_tower(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
        super().__init__({"text": text, "image": new_image_tower()})
        self.logit_scale = nn.Parameter(torch.tensor(2.3))


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, positive: Tensor) -> tuple[Tensor, float]:
    """Symmetric cross-entropy with several positives.

    image, text `[B,D]`; scale: factor on cosines; positive bool `[B,B]`, row = text, column = image.
    Returns the loss and the share of texts whose best picture is a positive.
    """
    logits = scale * F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T
    target = positive.float()
    rows = -(F.log_softmax(logits, 1) * target / target.sum(1, keepdim=True)).sum(1).mean()
    columns = -(F.log_softmax(logits, 0) * target / target.sum(0, keepdim=True)).sum(0).mean()
    hit = positive.gather(1, logits.argmax(1, keepdim=True)).float().mean()
    return (rows + columns) / 2, float(hit)


class ClipLoss:
    """Draws batches and scores them; `self(step)` is what `Trainer` calls."""

    def __init__(
        self, modules: ClipModules, pool: Pool, size: int = 48, seed: int = 1, style_share: float = 0.2
    ) -> None:
        self.modules, self.pool, self.size, self.seed = modules, pool, size, seed
        self.style_share = style_share
        self.tokenizer = load_tokenizer()

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        pairs = [draw_pair(self.pool, random, self.style_share) for _ in range(self.size)]
        device = self.modules.logit_scale.device
        images = torch.from_numpy(np.stack([p.image for p in pairs])).permute(0, 3, 1, 2).to(device)
        ids = self.tokenizer([p.caption for p in pairs], padding="max_length", max_length=77, return_tensors="pt")
        positive = torch.tensor([[p.stated <= q.facts for q in pairs] for p in pairs], device=device)
        text = self.modules["text"](input_ids=ids["input_ids"].to(device)).text_embeds
        scale = self.modules.logit_scale.clamp(max=4.0).exp()
        loss, hit = contrastive_loss(self.modules["image"](images), text, scale, positive)
        return loss, {"hit": hit}
