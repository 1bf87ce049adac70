"""From a picture and a sentence to the restyled picture: the use case behind `regionstyle stylize` and
`regionstyle.stylize`. And from phrases to regions, behind `regionstyle find` and `regionstyle.find`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..engine.errors import RegionStyleError, is_cancel, wrong_input
from ..engine.host.base import Host
from ..engine.language.instruction import Instruction
from ..grounding.finders.attention_finder import FoundRegions
from ..grounding.language.bare_style import parse_for_region
from ..grounding.language.prompt import parse_sentence
from ..local_clip.settings import LocalClipSettings
from .edit import EditResult, EditSettings, Painter, edit
from .ground_instruction import Where, check_all_found, check_tiny_words, ground_instruction, instruction_of
from .harmonize import HarmonizeRequest, harmonize
from .local_clip import known_clip_styles
from .local_model import TINY, LocalModel, check_expert, known_styles, open_model
from .painters.clip import check_settings as check_clip
from .painters.generator import check_settings as check_generator
from .painters.registry import PainterContext, painter_named
from .painters.sms import check_settings as check_sms
from .sms import SmsChoice

OFF = "off"
EXPERT, CLIP, SMS, EDIT = "expert", "clip", "sms", "edit"
METHODS = (EXPERT, CLIP, SMS, EDIT)
BY_EXPERTS = (EXPERT, SMS)  # the methods that need the style's expert
KEEPING = (CLIP, SMS)  # the methods that keep what they have reached when they are cancelled
CHECKS = {"generator": check_generator, CLIP: check_clip, SMS: check_sms}  # of the settings, by painter
NOT_HARMONISED = "not harmonised, since it was stopped"


@dataclass(frozen=True, eq=False)
class StylizeRequest:
    """prompt: what to do; style: when the prompt does not name it; where: who says where the things are; model:
    "tinyworld" or a folder in diffusers' layout; expert: the style's LoRA for it; generator: a file, a bundled one's
    style, "off", or None (a bundled one where it fits); settings: what else was chosen; harmonize: fit what was
    restyled to the light around it afterwards; method: "expert" (or a generator), or "clip": towards the words for the
    style, by clip, a CLIP's folder (None: the tiny one), as local_clip says (None: as published), beginning with
    start_image `[1,3,H,W]`, or "sms": optimised by the style's expert, as sms says (None: as published, or as suits the
    tiny world), or "edit": the tiny world draws all of the picture anew as the words want it, no mask says where;
    composite: then keep what is outside the things that were found."""

    prompt: str
    style: str | None = None
    where: Where = field(default_factory=Where)
    model: str = TINY
    expert: Path | None = None
    generator: str | None = None
    settings: EditSettings = field(default_factory=EditSettings)
    harmonize: bool = False
    method: str = EXPERT
    clip: Path | None = None
    local_clip: LocalClipSettings | None = None
    composite: bool = False
    start_image: Tensor | None = None
    sms: SmsChoice | None = None

    @property
    def painter(self) -> str:
        """The name of the painter that this asks for."""
        if self.method != EXPERT:
            return {EDIT: "words"}.get(self.method, self.method)
        if self.generator is None:
            return "automatic"
        return "expert" if self.generator == OFF else "generator"

    @property
    def keeps(self) -> bool:
        """Whether what was reached counts when the user cancels."""
        return self.method in KEEPING and (self.local_clip is None or self.local_clip.keep_best)

    def check(self) -> None:
        """RegionStyleError for what can be seen to be wrong without any picture or network."""
        self.where.check()
        self._check_method()
        if self.painter in CHECKS:
            CHECKS[self.painter](self.settings)
        check_expert(self.model, self.expert)
        if self.harmonize and self.where.whole:
            raise wrong_input("--harmonize", "it with --whole", "a part of the picture", "Leave one of them out.")

    def _check_method(self) -> None:
        """RegionStyleError for an unknown method, and options that belong to the other one.

        Settings of clip and of sms are called what Python calls them; the command line refuses each by its own flag.
        """
        if self.method not in METHODS:
            raise wrong_input("--method", repr(self.method), f"one of: {', '.join(METHODS)}", "Choose one of these.")
        lora = {} if self.method in BY_EXPERTS else {"--expert": self.expert}
        options: dict[str, dict[str, Any]] = {
            EXPERT: {**lora, "--generator": self.generator},
            CLIP: {"--clip": self.clip, "--start-image": self.start_image, "--clip-settings": self.local_clip},
            SMS: {"--sms-settings": self.sms},
            EDIT: {"--composite": self.composite or None},
        }
        for other in METHODS:
            given = [name for name, value in options[other].items() if value is not None and other != self.method]
            if given:
                got, accepts = f"{self.method!r} with {' and '.join(given)}", f"it without, or {other!r}"
                raise wrong_input("--method", got, accepts, "Leave out one or the other.")
        self._check_model_used()
        if self.method == EDIT:
            self._check_edit()
        if self.method == SMS and self.model != TINY and self.expert is None:
            accepts = "the style's LoRA, by which sms paints"
            raise wrong_input("--expert", f"nothing with --model {self.model}", accepts, "Give its file.")

    def _check_edit(self) -> None:
        """RegionStyleError for a model that was not taught to edit, and for a region: words say where."""
        if self.model != TINY:
            accepts, remedy = f"it with --model {TINY}", "Use --method expert with your own model."
            raise wrong_input("--method", f"'{EDIT}' with --model {self.model}", accepts, remedy)
        if self.where.given:
            accepts, remedy = "it without: the words say where", "Leave it out; --composite keeps the rest."
            raise wrong_input("--method", f"'{EDIT}' with --mask, --box or --whole", accepts, remedy)

    def _check_model_used(self) -> None:
        """RegionStyleError for a model that would be loaded for nothing: CLIP needs none, unless in its latents."""
        latent = self.local_clip is not None and self.local_clip.optimise == "latent"
        if self.method == CLIP and self.model != TINY and not latent and not self.where.needs_model:
            accepts = "it with --optimise latent, or to find the thing"
            raise wrong_input("--model", repr(self.model), accepts, "Leave it out.")


def stylize(images: Tensor, request: StylizeRequest, host: Host) -> EditResult:
    """Restyle what a sentence names in images `[B,3,H,W]` in 0..1; what is outside the result's mask stays as it is.

    RegionStyleError for a prompt that cannot be read, options that do not fit each other and files that are missing;
    NothingFound for a thing that is not there.
    """
    request.check()
    _check_start(images, request)
    instruction = _instruction(request)
    if request.method == EDIT:
        _check_taught(images, instruction)
    styles = [asked.style for asked in instruction.requests] if request.method in BY_EXPERTS else []
    model = open_model(request.model, host, styles=styles, expert=request.expert)
    with model.predictor.loaded():
        found = check_all_found(_found(images, instruction, request.where, model))
        painter: Painter = painter_named(request.painter, _painter_context(request, model))
        edited = edit(images, found.regions, painter, request.settings)
    edited = replace(edited, notes=(*found.outlined, *edited.notes), said=found.said)
    return _harmonized_or_kept(edited, request, host) if request.harmonize else edited


def _harmonized_or_kept(edited: EditResult, request: StylizeRequest, host: Host) -> EditResult:
    """What was restyled, harmonised, or as it is where a method that keeps what it has is cancelled: that is noted."""
    if not edited.stopped:
        try:
            return harmonized(edited, host)
        except BaseException as error:
            if not (request.keeps and is_cancel(error)):
                raise
    return replace(edited, stopped=True, notes=(*edited.notes, NOT_HARMONISED))


def harmonized(edited: EditResult, host: Host) -> EditResult:
    """What was restyled, fitted to the light around it by the bundled harmoniser; the rest as before.

    Where that cannot be done (a region that fills its picture, or of a few pixels) it stays as painted, which a note
    says.
    """
    image, notes = edited.image.clone(), list(edited.notes)
    for index in range(len(image)):
        at, which = slice(index, index + 1), f"picture {index + 1}: " if len(image) > 1 else ""
        if not bool((edited.mask[index] > 0).any()):
            continue
        try:
            made = harmonize(image[at], edited.mask[at], HarmonizeRequest(), host)
        except RegionStyleError as error:
            notes.append(f"{which}not harmonised: {error}")
            continue
        image[at] = made.image
        notes += [f"{which}{made.warning}"] if made.warning else []
    return replace(edited, image=image, notes=tuple(notes))


def _painter_context(request: StylizeRequest, model: LocalModel) -> PainterContext:
    return PainterContext(
        model, request.settings, request.generator, request.clip, request.local_clip, request.composite,
        request.start_image, request.sms,
    )  # fmt: skip


def _instruction(request: StylizeRequest) -> Instruction:
    """The prompt as the model's styles read it. RegionStyleError for several styles and one LoRA."""
    read = parse_for_region if request.where.given else parse_sentence
    known = _known_styles(request)
    instruction = read(request.prompt, known, request.style)
    styles = list(dict.fromkeys(asked.style for asked in instruction.requests))
    if request.expert is not None and len(styles) > 1:
        raise RegionStyleError(
            f"prompt: got the styles {', '.join(styles)}, expected one, since --expert is one style's LoRA. Restyle "
            "one style at a time."
        )
    return instruction


def _known_styles(request: StylizeRequest) -> Sequence[str] | None:
    """The styles that the method knows; None where any words are a style."""
    from ..tinyworld.styles import STYLES

    if request.method == EDIT:
        return list(STYLES)
    return known_clip_styles(request.clip) if request.method == CLIP else known_styles(request.model)


def _check_start(images: Tensor, request: StylizeRequest) -> None:
    """RegionStyleError for a start image of another size than the picture's, or where the settings want noise."""
    start = request.start_image
    if start is None:
        return
    if start.shape[-2:] != images.shape[-2:]:
        sizes = [f"{one.shape[-1]} x {one.shape[-2]} pixels" for one in (start, images)]
        remedy = "Give another method's result for the same picture."
        raise wrong_input("--start-image", sizes[0], f"{sizes[1]}, as the picture", remedy)
    if request.local_clip is not None and request.local_clip.start != "picture":
        accepts, remedy = "it with --start picture", "Leave out --start, or the start image."
        raise wrong_input("--start-image", f"it with --start {request.local_clip.start}", accepts, remedy)


def _check_taught(images: Tensor, instruction: Instruction) -> None:
    """RegionStyleError for pictures and words that editing by words was not taught, before anything is looked for."""
    from ..tinyworld.editing import check_instruction, check_size

    check_size(images)
    for asked in instruction.requests:
        check_instruction(asked.phrase, asked.style)


def _found(images: Tensor, instruction: Instruction, where: Where, model: LocalModel) -> FoundRegions:
    if model.tiny and where.needs_model:
        check_tiny_words(instruction)
    return ground_instruction(model.predictor, images, instruction, where)


@dataclass(frozen=True, eq=False)
class FindRequest:
    """phrases: what to look for; where: by whom (attention, detector, sam); model: whose attention is read."""

    phrases: Sequence[str]
    where: Where = field(default_factory=Where)
    model: str = TINY


def find(images: Tensor, request: FindRequest, host: Host) -> FoundRegions:
    """The regions of phrases in images `[B,3,H,W]` in 0..1, and a notice of what was not found.

    What is not there has an empty mask and score 0. Regions do not overlap: what is named later lies on top, and "the
    background" is what no other phrase covers. RegionStyleError for no phrases, and files that are missing.
    """
    request.where.check()
    instruction = instruction_of(request.phrases)
    if not request.where.needs_model:
        return ground_instruction(None, images, instruction, request.where, host)
    model = open_model(request.model, host)
    with model.predictor.loaded():
        return _found(images, instruction, request.where, model)
