"""SMS on pictures: encode, optimise, decode, and paste back into the region where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.adapters.gates import Gate, RegionGate
from ..engine.errors import wrong_input
from ..engine.predictor.base import NoisePredictor
from ..engine.region.enlarged import enlarged_note
from ..engine.region.region import RegionCrop
from .optimise import BaseModel, History, Prompts, StyleMatcher
from .settings import Framing, SmsSettings

FRAMES = 8  # pictures of the progression strip, at most
SHARPER = "A smaller region is sharper, and a generator that is distilled from this style paints at any size."
LONGEST = 2  # times the native size: the longer side of a whole picture, or memory would grow with its length


@dataclass(frozen=True, eq=False)
class Matched:
    """images `[B,3,H,W]`; masks `[B,H,W]`, the composited ones (1 everywhere without a mask); frames: the first
    picture now and then, `[3,h,w]`; history: losses and the like per iteration; note: what the user should know of the
    result's sharpness, "" for nothing."""

    images: Tensor
    masks: Tensor
    frames: list[Tensor]
    history: History
    note: str = ""


def scaled_gates(gates: Mapping[str, Gate], strength: float) -> dict[str, Gate]:
    """The attached gates with their strengths multiplied; a mask stays the mask it is."""
    return {name: _scaled(gate, strength) for name, gate in gates.items()}


def has_mask(gate: Gate) -> bool:
    """Whether a gate says where in the picture its expert acts."""
    return isinstance(gate, RegionGate) or (isinstance(gate, Tensor) and gate.ndim >= 2)


def _scaled(gate: Gate, strength: float) -> Gate:
    if isinstance(gate, Tensor) and has_mask(gate):
        gate = RegionGate(gate)  # what a bare mask is short for: a product with it would change the mask instead
    return replace(gate, strength=gate.strength * strength) if isinstance(gate, RegionGate) else gate * strength


def match_style(
    predictor: NoisePredictor,
    images: Tensor,
    masks: Tensor | None,
    captions: Sequence[str],
    style_words: str,
    style: Mapping[str, Gate],
    fake: Sequence[nn.Parameter],
    settings: SmsSettings,
    framing: Framing | None = None,
    base: NoisePredictor | None = None,
) -> Matched:
    """Give pictures `[B,3,H,W]` in 0..1 the look of the attached style experts, each in its mask `[B,H,W]` if given.

    captions: what the pictures show (one, or one each); style_words: the style as prompts name it; style: gates of the
    style experts; fake: parameters of the attached `init_fake`. Without masks the whole picture changes; with them,
    where the composited mask is 0 it stays bit for bit. base: a plain model that real and fake predict on, the fake
    expert attached to it (None: all three on `predictor`). Shows previews and can be cancelled at every iteration.
    RegionStyleError for empty style words, a mask without a region, captions that do not fit, or a base with
    other latents.
    """
    style_words = style_words.strip()
    if not style_words:
        raise wrong_input("style", "nothing", "words for the style", "Type for example 'watercolor'.")
    if len(captions) not in (1, len(images)):
        raise wrong_input("captions", len(captions), f"1 or {len(images)}", "Give one, or one per picture.")
    work = _Work(predictor, images, masks, framing or Framing())
    with torch.no_grad(), predictor.loaded():
        source = _encoded(predictor, work.cut(), settings)
        prompts = Prompts.of(predictor, captions, style_words, settings.preset)
    other = None if base is None else _base_model(base, captions, style_words, settings)
    networks = [predictor] if base is None else [predictor, base]
    with ExitStack() as told:
        for network in networks:
            told.enter_context(work.inpainting(network))
        for network in networks:
            told.enter_context(network.gradients())
        mask = work.latent_mask(source)
        matcher = StyleMatcher(predictor, source.clone(), prompts, style, fake, settings, mask, other)
        frames = _run(matcher)
        latent = matcher.latent.clone()
    with torch.no_grad(), predictor.loaded():
        stylized = predictor.decode(latent)
    return Matched(*work.paste(stylized.to(images)), [*frames, stylized[0].cpu()], matcher.history, work.note)


def _encoded(predictor: NoisePredictor, images: Tensor, settings: SmsSettings) -> Tensor:
    """Latents to start from; a sample is drawn from the run's seed."""
    if settings.start == "mode":
        return predictor.encode(images)
    return predictor.encode_sample(images, torch.Generator().manual_seed(settings.seed))


def _base_model(base: NoisePredictor, captions: Sequence[str], style_words: str, settings: SmsSettings) -> BaseModel:
    """The base with prompts as its own text encoder encodes them."""
    with torch.no_grad(), base.loaded():
        return BaseModel(base, Prompts.of(base, captions, style_words, settings.preset))


def _run(matcher: StyleMatcher) -> list[Tensor]:
    """All iterations, or fewer when it settles; returns the frames."""
    settings, predictor, frames = matcher.settings, matcher.predictor, []
    progress = predictor.host.progress(settings.iterations, "matching style")
    kept = {round(settings.iterations * i / (FRAMES - 1)) for i in range(FRAMES - 1)}
    for index in range(settings.iterations):
        shown = index % settings.preview_every == 0 or index in kept
        preview = _decoded(matcher) if shown else None
        if preview is not None and index in kept:
            frames.append(preview)
        progress.update(index, preview)
        matcher.step()
        if matcher.settled:
            break
    progress.update(settings.iterations, _decoded(matcher))
    return frames


def _decoded(matcher: StyleMatcher) -> Tensor:
    with torch.no_grad():
        return matcher.predictor.decode(matcher.latent[:1])[0].cpu()


class _Work:
    """The pictures as they are worked on: a crop around each mask, or the whole at the network's native size."""

    def __init__(self, predictor: NoisePredictor, images: Tensor, masks: Tensor | None, framing: Framing) -> None:
        self.images, self.masks, self.framing = images, masks, framing
        self.native, self.grid = predictor.native_size, predictor.factor
        self.crops = [self._crop(*numbered) for numbered in enumerate(masks)] if masks is not None else []

    def _crop(self, number: int, mask: Tensor) -> RegionCrop:
        if not bool((mask > 0).any()):
            raise wrong_input(f"mask of picture {number}", "no value above 0", "a region to change", "Draw one.")
        margin, scale = self.framing.margin, self.framing.largest_scale
        return RegionCrop.around(mask, native=self.native, grid=self.grid, margin=margin, largest_scale=scale)

    def cut(self) -> Tensor:
        if self.crops:
            return torch.cat([crop.cut(image[None]) for crop, image in zip(self.crops, self.images, strict=True)])
        return F.interpolate(self.images, self._whole_size(), mode="bicubic", antialias=True).clamp(0, 1)

    def _whole_size(self) -> tuple[int, int]:
        """The shorter side at the native size, the longer at most `LONGEST` times that, both multiples of the grid."""
        height, width = self.images.shape[-2:]
        scale = min(self.native / min(height, width), LONGEST * self.native / max(height, width))
        rounded = [max(1, round(side * scale / self.grid)) * self.grid for side in (height, width)]
        return rounded[0], rounded[1]

    @property
    def note(self) -> str:
        """What there is to say where a result had to be enlarged to fit its picture."""
        times = [1 / crop.scale for crop in self.crops] or [max(self.images.shape[-2:]) / max(self._whole_size())]
        return enlarged_note(max(times), self.native, SHARPER)

    def latent_mask(self, latent: Tensor) -> Tensor | None:
        """1 on every latent cell that the region touches, `[B,1,h,w]`."""
        if self.masks is None:
            return None
        cut = (self._cut_masks(self.masks) > 0).float()[:, None]
        return F.adaptive_max_pool2d(cut, latent.shape[-2:]).to(latent)

    def _cut_masks(self, masks: Tensor) -> Tensor:
        """Every picture's mask in its crop, `[B,n,n]`."""
        return torch.stack([crop.cut_mask(mask) for crop, mask in zip(self.crops, masks, strict=True)])

    def inpainting(self, predictor: NoisePredictor) -> AbstractContextManager[None]:
        """A block in which a network for inpainting is told the regions and the pictures around them."""
        if self.masks is None:
            return nullcontext()
        return predictor.inpainting(self.cut(), (self._cut_masks(self.masks) > 0).float())

    def paste(self, stylized: Tensor) -> tuple[Tensor, Tensor]:
        """Stylised crops or whole pictures back in their images `[B,3,H,W]`, and the masks blended with `[B,H,W]`."""
        height, width = self.images.shape[-2:]
        if self.masks is None:
            whole = F.interpolate(stylized, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
            return whole, torch.ones(len(whole), height, width)
        feather = self.framing.feather
        parts = list(zip(self.crops, self.images, stylized, self.masks, strict=True))
        pasted = [crop.paste(image[None], cut[None], mask, feather) for crop, image, cut, mask in parts]
        blended = [crop.composite_mask(mask, feather)[0, 0] for crop, _, _, mask in parts]
        return torch.cat(pasted), torch.stack(blended)
