"""Stages `clip` and `measure`: text tower and image tower, contrastive, on scenes, styled scenes and object crops.

`clip` trains both towers; the denoiser then reads that text tower, which is not changed again. `measure` goes on with
copies of both, with more captions about styles: the CLIP that results are measured with.

A caption may fit several pictures of a batch ("a picture in mosaic style"), so positives are not only the diagonal:
every picture that has all the facts a caption states counts as its positive (soft targets over the positives).
Beside the captions of the batch, every picture is compared with the whole of three lists of prompts, one for shapes,
one for colours with shapes, one for styles. Captions alone can be told apart by colour and background, and a tower
trained on them alone never learns shapes; the lists ask for each property by itself. Every prompt of the lists also
has an anchor, a free vector that is thrown away after training: while the pictures cannot be told apart by shape, the
best texts for all shapes are the same one, and once the texts are the same, nothing tells the pictures apart. Anchors
start apart, so the picture side learns first and the texts follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..crops import crop_object
from ..networks import TEXT_WIDTH, new_image_tower, new_text_tower
from ..styles import STYLES
from ..tokenizer import load_tokenizer
from ..world import COLORS, SHAPES, SIZE, SceneObject
from .pictures import soften, styled_scene
from .pool import Pool

# Prompt -> the fact it states, per list.
PROMPT_LISTS: tuple[dict[str, str], ...] = (
    {f"a {shape}": shape for shape in SHAPES},
    {f"a {color} {shape}": f"{color} {shape}" for color in COLORS for shape in SHAPES},
    {f"a picture in {style} style": f"has {style}" for style in STYLES} | {"a picture in plain style": "unstyled"},
)


@dataclass
class Pair:
    """A picture `[128,128,3]` with everything that is true of it, a caption and what the caption states."""

    image: np.ndarray
    facts: frozenset[str]
    caption: str
    stated: frozenset[str]


def _object_facts(thing: SceneObject, style: str | None) -> frozenset[str]:
    facts = {thing.phrase, thing.shape, thing.color, f"{style} {thing.phrase}", f"{style} {thing.shape}"}
    return frozenset(facts | ({f"has {style}"} if style else set()))


def draw_pair(pool: Pool, random: np.random.Generator, style_share: float = 0.2) -> Pair:
    """One training pair; half of the pictures are crops around one object, `style_share` of the captions name only
    the style, where there is one."""
    drawn_scene = pool.scene(int(random.integers(len(pool))))
    image, styles, whole = styled_scene(drawn_scene, random)
    things = list(zip(drawn_scene.objects, styles, strict=True))
    if random.random() < 0.5:
        index = int(random.integers(len(things)))
        image = crop_object(image, drawn_scene.objects[index].box, float(random.uniform(0, 0.8)))
        things = [things[index]]
    if random.random() < 0.5:
        image = image[:, ::-1]
    truth = frozenset().union(*(_object_facts(t, whole or s) for t, s in things))
    untouched = not whole and not any(style for _, style in things)
    truth |= {f"on {drawn_scene.background}"} | ({f"whole {whole}"} if whole else {"unstyled"} if untouched else set())
    return _caption(np.ascontiguousarray(image), truth, things, whole, drawn_scene.background, random, style_share)


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
    """text: `CLIPTextModelWithProjection`; image: `ImageTower`; anchors: one vector per listed prompt; the temperature
    is learnt in log space."""

    def __init__(self) -> None:
        tokenizer = load_tokenizer()
        text = new_text_tower(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
        super().__init__({"text": text, "image": new_image_tower()})
        self.logit_scale = nn.Parameter(torch.tensor(2.3))
        self.heads = nn.ModuleList([nn.Linear(TEXT_WIDTH, len(prompts)) for prompts in PROMPT_LISTS])


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


def list_loss(logits: Tensor, true: Tensor) -> Tensor:
    """Cross-entropy of pictures over a list of prompts, the true ones sharing the target.

    logits `[B,P]`; true bool `[B,P]`, at least one in every row.
    """
    target = true.float() / true.sum(1, keepdim=True)
    return -(F.log_softmax(logits, 1) * target).sum(1).mean()


class ClipLoss:
    """Draws batches and scores them; `self(step)` is what `Trainer` calls."""

    def __init__(
        self, modules: ClipModules, pool: Pool, size: int = 48, seed: int = 1, style_share: float = 0.2
    ) -> None:
        self.modules, self.pool, self.size, self.seed = modules, pool, size, seed
        self.style_share = style_share
        self.tokenizer = load_tokenizer()

    def _texts(self, captions: list[str]) -> Tensor:
        """Embeddings `[B,D]`; padding after the longest caption is left out, which a causal tower does not notice."""
        ids = self.tokenizer(captions, padding="longest", return_tensors="pt")["input_ids"]
        return self.modules["text"](input_ids=ids.to(self.modules.logit_scale.device)).text_embeds

    def _images(self, pairs: list[Pair], random: np.random.Generator) -> Tensor:
        """Embeddings `[B,D]` of the pictures, a third of them softened."""
        images = torch.from_numpy(np.stack([p.image for p in pairs])).permute(0, 3, 1, 2)
        images = images.to(self.modules.logit_scale.device)
        third = self.size // 3
        images = torch.cat([soften(images[:third], int(random.integers(56, SIZE))), images[third:]])
        return self.modules["image"](images)

    def __call__(self, step: int) -> tuple[Tensor, dict[str, float]]:
        random = np.random.default_rng([self.seed, step])
        pairs = [draw_pair(self.pool, random, self.style_share) for _ in range(self.size)]
        texts = self._texts([p.caption for p in pairs] + [prompt for part in PROMPT_LISTS for prompt in part])
        captions, *lists = texts.split([self.size, *map(len, PROMPT_LISTS)])
        image, scale = self._images(pairs, random), self.modules.logit_scale.clamp(max=4.0).exp()
        positive = torch.tensor([[p.stated <= q.facts for q in pairs] for p in pairs], device=image.device)
        loss, hit = contrastive_loss(image, captions, scale, positive)
        numbers = {"hit": hit, "contrast": float(loss.detach())}
        unit = scale * F.normalize(image, dim=-1)
        names = ("shape", "phrase", "style")
        for name, prompts, head, facts in zip(names, lists, self.modules.heads, PROMPT_LISTS, strict=True):
            true = torch.tensor([[fact in p.facts for fact in facts.values()] for p in pairs], device=image.device)
            part, direct = list_loss(unit @ F.normalize(prompts, dim=-1).T, true), list_loss(head(image), true)
            loss = loss + part / 2 + direct
            numbers |= {name: float(part.detach()), f"{name}_head": float(direct.detach())}
        return loss, numbers
