"""SMS on pictures: encode, optimise, decode, and paste back into the region where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..engine.adapters.gates import Gate, RegionGate
from ..engine.errors import is_cancel, wrong_input
from ..engine.predictor.base import NoisePredictor
from ..engine.region.unchanged import looks_alike
from .optimise import BaseModel, History, Prompts, StyleMatcher
from .settings import LABEL, Framing, SmsSettings
from .work import Work, works_of

FRAMES = 8  # pictures of the progression strip, at most
UNSEEN = "the iterations changed nothing that can be seen: raise iterations, rate or strength"


@dataclass(frozen=True, eq=False)
class Matched:
    """images `[B,3,H,W]`; masks `[B,H,W]`, the composited ones (1 everywhere without a mask); frames: the first
    picture now and then, `[3,h,w]`; history: losses and the like per iteration; note: what the user should know of the
    result's sharpness, "" for nothing; tiles: how many an iteration took at the picture's own size, 0 for none; seen:
    whether the iterations changed anything of the first picture that can be seen, at any of its sizes; stopped: how far
    it came when it was cancelled, "" for all the way."""

    images: Tensor
    masks: Tensor
    frames: list[Tensor]
    history: History
    note: str = ""
    tiles: int = 0
    seen: bool = True
    stopped: str = ""


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
    *,
    keep: bool = False,
) -> Matched:
    """Give pictures `[B,3,H,W]` in 0..1 the look of the attached style experts, each in its mask `[B,H,W]` if given.

    captions: what the pictures show (one, or one each); style_words: the style as prompts name it; style: gates of the
    style experts; fake: parameters of the attached `init_fake`. Without masks the whole picture changes; with them,
    where the composited mask is 0 it stays bit for bit. framing.detail: at which size they are worked on; "both" gives
    the first half of the iterations, whose noise composes, to the native size and the rest to tiles. base: a plain
    model that real and fake predict on, the fake expert attached to it (None: all three on `predictor`). Shows previews
    and can be cancelled at every iteration. keep: a cancel, of which the host tells once, ends the iterations, and the
    picture so far counts, unless there is none yet. RegionStyleError for empty style words, a mask without a region,
    captions that do not fit, or a base with other latents.
    """
    style_words = style_words.strip()
    if not style_words:
        raise wrong_input("style", "nothing", "words for the style", "Type for example 'watercolor'.")
    if len(captions) not in (1, len(images)):
        raise wrong_input("captions", len(captions), f"1 or {len(images)}", "Give one, or one per picture.")
    works = works_of(predictor, images, masks, framing or Framing())
    run = _Run(predictor, base, list(captions), style_words, style, fake, settings, keep)
    finished = run.stages(works, images)
    made, work = finished[-1]
    stylized, blended = made.pasted
    frames, seen = [*run.frames, made.frame], any(stage.seen for stage, _ in finished)
    return Matched(stylized, blended, frames, run.history, work.note, work.tiles, seen, run.stopped)


@dataclass(frozen=True, eq=False)
class _Stage:
    """What the iterations at one size made. pasted: pictures and masks; begun: pictures `[B,3,H,W]` for another size to
    begin from; frame: the first one to look at, `[3,h,w]`; seen: whether it looks otherwise than before them. Both are
    decoded for that: coding alone makes no difference."""

    pasted: tuple[Tensor, Tensor]
    begun: Tensor
    frame: Tensor
    seen: bool


@dataclass(eq=False)
class _Run:
    """One run of SMS, at one size or at two one after the other; history and frames go on through both."""

    predictor: NoisePredictor
    base: NoisePredictor | None
    captions: list[str]
    style_words: str
    style: Mapping[str, Gate]
    fake: Sequence[nn.Parameter]
    settings: SmsSettings
    keep: bool = False
    stopped: str = ""
    done: int = 0
    history: History = field(default_factory=History)
    frames: list[Tensor] = field(default_factory=list)

    def stages(self, works: Sequence[Work], images: Tensor) -> list[tuple[_Stage, Work]]:
        """The iterations at each size, or at those that were finished when the user cancelled: at least one."""
        begun, finished = images, list[tuple[_Stage, Work]]()
        for number, work in enumerate(works):
            first, last = (round(self.settings.iterations * at / len(works)) for at in (number, number + 1))
            try:
                stage = self.stage(work, images, begun, first, last)
            except BaseException as error:
                if not (finished and self._stops(error)):
                    raise
                break
            finished.append((stage, work))
            begun = stage.begun
            if self.stopped:
                break
        return finished

    def stage(self, work: Work, images: Tensor, begun: Tensor, first: int, last: int) -> _Stage:
        """The iterations from first to before last, begun with the latents of pictures like images `[B,3,H,W]`."""
        predictor = work.over(self.predictor)
        base = None if self.base is None else work.over(self.base)
        with torch.no_grad(), predictor.loaded():
            source = _encoded(predictor, work.cut(images), self.settings)
            start = source if begun is images else predictor.encode(work.cut(begun))
            before = predictor.preview(start[:1])[0].cpu()
            prompts = Prompts.of(predictor, self.captions, self.style_words, self.settings.preset)
        other = None if base is None else _base_model(base, self.captions, self.style_words, self.settings)
        with ExitStack() as told:
            for network in filter(None, (predictor, base)):
                told.enter_context(work.inpainting(network))
            for network in filter(None, (predictor, base)):
                told.enter_context(network.gradients())
            mask = work.latent_mask(source)
            matcher = StyleMatcher(
                predictor, source.clone(), prompts, self.style, self.fake, self.settings, mask, other, start.clone()
            )
            matcher.go_on(self.history, first)
            self._iterate(matcher, last)
            latent = matcher.latent.clone()

        def finished() -> _Stage:
            pasted = work.paste(predictor.decode(latent).to(images))
            begun = images
            if last < self.settings.iterations:  # what was changed, added to the pictures, which keep their sharpness
                begun = (images + pasted[0] - work.paste(predictor.decode(source).to(images))[0]).clamp(0, 1)
            frame = predictor.preview(latent[:1])[0].cpu()
            return _Stage(pasted, begun, frame, not looks_alike(before, frame))

        with torch.no_grad(), predictor.loaded():
            try:
                return finished()
            except BaseException as error:  # the host is asked between two tiles of a decoder as well
                if not self._stops(error):
                    raise
            return finished()

    def _iterate(self, matcher: StyleMatcher, last: int) -> None:
        """All iterations before `last`, or those that were done when the user cancelled and something is to be kept."""
        try:
            _run(matcher, last, self.frames)
            self.done = matcher.iteration
        except BaseException as error:
            self.done = matcher.iteration
            if not self._stops(error):
                raise

    def _stops(self, error: BaseException) -> bool:
        """Whether an error is the first cancel, after which what there is so far counts: that is noted."""
        # The first iteration has a learning rate of 0: after it alone the picture is what it was.
        if self.stopped or not (self.keep and is_cancel(error) and self.done > 1):
            return False
        self.stopped = f"cancelled after {self.done} of {self.settings.iterations} iterations: the picture so far"
        return True


def _encoded(predictor: NoisePredictor, images: Tensor, settings: SmsSettings) -> Tensor:
    """Latents to start from; a sample is drawn from the run's seed."""
    if settings.start == "mode":
        return predictor.encode(images)
    return predictor.encode_sample(images, torch.Generator().manual_seed(settings.seed))


def _base_model(base: NoisePredictor, captions: Sequence[str], style_words: str, settings: SmsSettings) -> BaseModel:
    """The base with prompts as its own text encoder encodes them."""
    with torch.no_grad(), base.loaded():
        return BaseModel(base, Prompts.of(base, captions, style_words, settings.preset))


def _run(matcher: StyleMatcher, last: int, frames: list[Tensor]) -> None:
    """All iterations before `last`, or fewer when it settles; adds to the frames."""
    settings, predictor = matcher.settings, matcher.predictor
    progress = predictor.host.progress(settings.iterations, LABEL)
    kept = {round(settings.iterations * i / (FRAMES - 1)) for i in range(FRAMES - 1)}
    for index in range(matcher.iteration, last):
        shown = index % settings.preview_every == 0 or index in kept
        preview = _decoded(matcher) if shown else None
        if preview is not None and index in kept:
            frames.append(preview)
        progress.update(index, preview)
        matcher.step()
        if matcher.settled:
            break
    progress.update(last, _decoded(matcher))


def _decoded(matcher: StyleMatcher) -> Tensor:
    with torch.no_grad():
        return matcher.predictor.preview(matcher.latent[:1])[0].cpu()
