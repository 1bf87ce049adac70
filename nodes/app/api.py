"""The Python API: `regionstyle.stylize`, `regionstyle.find` and `regionstyle.harmonize`.

    >>> import regionstyle
    >>> own = {"model": "stable-diffusion-v1-5", "expert": "watercolor.safetensors"}
    >>> result = regionstyle.stylize("photo.jpg", "make the dog watercolor", **own)
    >>> result.image.save("out.png")
    >>> for region in regionstyle.find("photo.jpg", ["dog", "the leftmost cat"], model=own["model"]):
    ...     print(region.phrase, region.score, region.box)

    >>> fitted = regionstyle.harmonize("composite.png", "mask.png").image

They do what the commands of these names do, with the same seeds and the same results.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.errors import RegionStyleError, wrong_input
from ..engine.host.base import LocalHost
from ..engine.region.region import Region
from ..engine.region.regions import Regions
from ..engine.settings.checks import checked
from ..engine.settings.setting import LARGEST_SEED
from ..grounding.finders.attention import AttentionSettings
from ..harmonizer.r2r.settings import R2RSettings
from ..local_clip.settings import ELSEWHERE, LocalClipSettings
from . import stylize as use_case
from .edit import EditSettings
from .ground_instruction import Where
from .harmonize import BUNDLED, HarmonizeRequest
from .harmonize import harmonize as fit
from .image_types import given_image, given_mask
from .local_clip import usual_settings
from .local_model import TINY, check_device
from .sms import SHARED, SmsChoice, usual_sms

PathLike = str | os.PathLike[str]
CLIP_ELSEWHERE = {
    **ELSEWHERE,
    "keep_best": "a call is interrupted, not cancelled",
    "preview_every": "a call shows no previews",
}
SMS_ELSEWHERE = {
    **dict.fromkeys(SHARED, "every method has it: it is an argument of stylize"),
    "preview_every": "a call shows no previews",
}
log = logging.getLogger("regionstyle")


@dataclass(frozen=True, eq=False)
class Stylized:
    """image: in the kind that was given (a path gives a PIL image; PIL images come back as RGB or, with transparency,
    RGBA); mask: where it is 0 every value of the image is the given one (PIL: mode L; array or tensor: `[H,W]` float32
    in 0..1, `[1,H,W]` for a tensor `[1,H,W,3]`); regions: what was restyled, in order; warning: what was not changed,
    and why, which the log says too; "" where all was."""

    image: Any
    mask: Any
    regions: tuple[Region, ...]
    warning: str = ""


def stylize(
    image: Any,
    prompt: str,
    *,
    mask: Any = None,
    box: Sequence[float] | None = None,
    whole: bool = False,
    style: str | None = None,
    model: PathLike | None = None,
    expert: PathLike | None = None,
    generator: PathLike | None = None,
    detector: PathLike | None = None,
    sam: PathLike | None = None,
    strength: float | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    seed: int = 0,
    device: str | None = None,
    harmonize: bool = False,
    detail: str = "auto",
    outline: str | None = None,
    method: str = use_case.EXPERT,
    clip: PathLike | None = None,
    clip_settings: Mapping[str, Any] | None = None,
    composite: bool = False,
    start_image: Any = None,
    sms_settings: Mapping[str, Any] | None = None,
) -> Stylized:
    """Restyle what a sentence names in a picture; everything else stays as it is.

    image: a path, a PIL image of any mode, a numpy array `[H,W,3]` (uint8, or floating point in 0..1), or a torch
    tensor `[H,W,3]` or `[1,H,W,3]` of the same. prompt: for example "make the dog watercolor".

    Where: what the prompt names is found by the model's attention, or by a detector (a Grounding DINO folder, with
    sam), and outlined by sam ("tinyworld", or a Segment Anything file). Instead, one of: mask (a path, PIL image, array
    or tensor `[H,W]`, white or 1 = change), box (x0, y0, x1, y1 in pixels), whole; then the prompt may be the style
    alone. outline: how the thing in the box is outlined, "box" (not at all), "grabcut" (by its colours, with OpenCV) or
    "sam"; None: by sam where it is given, else by GrabCut where OpenCV is installed.

    How: style, when the prompt does not name it; model, None for the tiny world or a folder in diffusers' layout;
    expert, the style's LoRA for it; generator, a trained generator's file, a bundled one's style, or "off". strength
    (above 0, at most 1), steps, cfg: None for what the style and the model usually want. detail: "native", one crop at
    the model's size; "full", overlapping tiles at the picture's own size; "both"; "auto", tiles where a crop would be
    enlarged over 1.5 times. device: "cpu", "cuda" or None for the best there is. harmonize: fit what was restyled to
    the light around it afterwards.

    method: "expert", or "clip": each thing is optimised towards the words for its style, which needs no expert; clip, a
    CLIP's folder (None: the tiny one, which knows the tiny world's styles); clip_settings, for example {"iterations":
    100, "optimise": "pixels"}: fields of `nodes.local_clip.settings.LocalClipSettings`; start_image, a picture of the
    same size in any kind that image may have: what the things are at first. Or "sms": each thing is optimised until the
    style's expert takes it for one of its own, slower than "expert", and more of the thing is kept; sms_settings, for
    example {"iterations": 40, "content": 0.001}, are what the node SMS Stylize has. Or "edit", for pictures of the tiny
    world, 128 pixels square: all of the picture is drawn anew as the words want it, no mask takes part, and what is
    outside the thing is close to what it was, not equal, unless composite lays it over the picture by the mask that was
    found.

    RegionStyleError for wrong input, and its subclass `NothingFound` (in `nodes.app.ground_instruction`) for a thing
    that is not in the picture.
    """
    with _in_python_words():
        given = given_image(image)
        where = Where(
            mask=None if mask is None else given_mask(mask, given.size),
            box=None if box is None else _box(box),
            whole=_switch("whole", whole),
            sam=_text("sam", sam),
            detector=_path("detector", detector),
            attention=AttentionSettings(seed=_seed(seed)),
            outline=_text("outline", outline),
        )
        settings = EditSettings(strength=strength, steps=steps, cfg=cfg, seed=seed, detail=detail)
        request = use_case.StylizeRequest(
            _words("prompt", prompt),
            None if style is None else _words("style", style),
            where,
            _model(model),
            _path("expert", expert),
            _text("generator", generator),
            settings,
            harmonize=_switch("harmonize", harmonize),
            method=method,
            clip=_path("clip", clip),
            local_clip=_clip_settings(clip_settings, clip),
            composite=_switch("composite", composite),
            start_image=None if start_image is None else given_image(start_image, "start_image").image,
            sms=_sms_settings(sms_settings, model),
        )
        check_device(device)
        result = use_case.stylize(given.image, request, LocalHost(device))
    if result.said:
        log.info("stylize: %s", result.said)
    if warning := result.warning(given.image):
        log.warning("stylize: %s", warning)
    return Stylized(*given.returned(result.image, result.mask), result.regions, warning)


def find(
    image: Any,
    phrases: str | Sequence[str],
    *,
    model: PathLike | None = None,
    detector: PathLike | None = None,
    sam: PathLike | None = None,
    seed: int = 0,
    device: str | None = None,
) -> Regions:
    """Where things are in a picture: `Regions`, in the order of the phrases.

    image, model, detector, sam, seed, device: as for `stylize`. phrases: "red star", "the leftmost cat", "two dogs"
    (a region each), "the background" (what no other phrase covers). Each region has a phrase, a score, a box (x0, y0,
    x1, y1) in pixels and a mask `[H,W]`, a torch tensor in 0..1. What is not there has an empty mask, the box (0, 0, 0,
    0) and score 0 (`Regions.missing`). RegionStyleError for wrong input.
    """
    with _in_python_words():
        given = given_image(image)
        named = [phrases] if isinstance(phrases, str) else _listed(phrases)
        attention = AttentionSettings(seed=_seed(seed))
        where = Where(sam=_text("sam", sam), detector=_path("detector", detector), attention=attention)
        request = use_case.FindRequest(named, where, _model(model))
        check_device(device)
        return use_case.find(given.image, request, LocalHost(device)).regions


@dataclass(frozen=True, eq=False)
class Harmonized:
    """image, mask: as of `Stylized`; warning: what was not harmonised, which the log says too; "" where all was."""

    image: Any
    mask: Any
    warning: str = ""


def harmonize(
    composite: Any,
    mask: Any,
    *,
    reference: Any = None,
    reference_mask: Any = None,
    method: str = BUNDLED,
    seam: float = 0.0,
    seed: int = 0,
    device: str | None = None,
    weights: PathLike | None = None,
    r2r_settings: Mapping[str, Any] | None = None,
) -> Harmonized:
    """Give a pasted foreground the light and colours of its background, or of a reference picture.

    composite, reference: a picture as for `stylize`; mask, reference_mask: as its mask, white or 1 = the foreground,
    each of its picture's size. method: "bundled" (the small network that comes with the pack), "reinhard", "mkl",
    "histogram", "poisson", "r2r" (R2R's networks from `weights`, a folder or checkpoint; r2r_settings, for example
    {"resolution": 512}). seam: pixels over which the change fades in from the mask's border inwards. What is
    transparent counts neither as background nor as reference. Where the mask is 0 every value of the result is the
    given one. RegionStyleError for wrong input.
    """
    with _in_python_words():
        given = given_image(composite)
        region = given_mask(mask, given.size)[None]
        guide = None if reference is None else given_image(reference)
        if guide is None and reference_mask is not None:
            raise wrong_input("reference_mask", "a mask", "it with a reference", "Give the reference picture as well.")
        guide_mask = None
        if guide is not None and reference_mask is not None:
            guide_mask = given_mask(reference_mask, guide.size)[None, None]
        if guide is not None and guide.opacity is not None:
            guide_mask = guide.opacity[None, None] * (1 if guide_mask is None else guide_mask)
        guide_image = None if guide is None else guide.image
        request = HarmonizeRequest(method, guide_image, guide_mask, _number("seam", seam), _seed(seed),
                                   _folder(weights), _r2r_settings(r2r_settings))  # fmt: skip
        check_device(device)
        opacity = None if given.opacity is None else given.opacity[None]
        result = fit(given.image, region, request, LocalHost(device), opacity=opacity)
    if result.warning:
        log.warning("harmonize: %s", result.warning)
    return Harmonized(*given.returned(result.image, region), result.warning)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_input(name, repr(value), "a number", "Use 0, for example.")
    return float(value)


@contextmanager
def _in_python_words() -> Iterator[None]:
    """Errors name arguments as Python does: the command line's `--start-image FILE` is `start_image`, and its `--start`
    is a key of `clip_settings`."""
    try:
        yield
    except RegionStyleError as error:
        words = str(error).replace("begins with --sms-", "is in sms_settings")
        words = re.sub(r"--(start|optimise) (picture|noise|latent)\b", r"clip_settings {'\1': '\2'}", words)
        words = re.sub(r"--(start|optimise)\b(?!-)", r"\1 in clip_settings", words)
        words = re.sub(r"(?<![\w-])--([a-z][a-z-]*)", lambda option: option[1].replace("-", "_"), words)
        raise type(error)(words) from error


def _clip_settings(given: Mapping[str, Any] | None, folder: Any) -> LocalClipSettings | None:
    known = _names_and_values("clip_settings", given, "{'iterations': 100}", CLIP_ELSEWHERE)
    return None if known is None else usual_settings(known, folder)


def _sms_settings(given: Mapping[str, Any] | None, model: PathLike | None) -> SmsChoice | None:
    known = _names_and_values("sms_settings", given, "{'iterations': 40}", SMS_ELSEWHERE)
    return None if known is None else usual_sms(known, _model(model) == TINY)


def _r2r_settings(given: Mapping[str, Any] | None) -> R2RSettings | None:
    known = _names_and_values("r2r_settings", given, "{'resolution': 512}", {})
    return None if known is None else R2RSettings(**checked(R2RSettings, **known))


def _names_and_values(
    argument: str, given: Any, example: str, elsewhere: Mapping[str, str]
) -> Mapping[str, Any] | None:
    """A method's settings as they were given, None for none; elsewhere: names that have no use in them -> why."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise wrong_input(argument, repr(given), "names and values", f"Give for example {example}.")
    for name, why in elsewhere.items():
        if name in given:
            raise wrong_input(argument, name, f"it without, since {why}", "Leave it out here.")
    return given


def _folder(weights: Any) -> Path | None:
    if weights is None or isinstance(weights, str | os.PathLike):
        return None if weights is None else Path(weights)
    raise wrong_input("weights", f"a {type(weights).__name__}", "a path", "Give R2R's folder or checkpoint.")


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong_input(name, repr(value), "True or False", "Give one of the two.")
    return value


def _words(name: str, text: Any) -> str:
    if not isinstance(text, str) or not text.strip():
        raise wrong_input(name, repr(text), "a sentence", "Write for example 'make the dog watercolor'.")
    return text


def _listed(phrases: Any) -> list[Any]:
    if not isinstance(phrases, Iterable):
        raise wrong_input("phrases", repr(phrases), "one phrase or a list of them", "Type for example 'red star'.")
    return list(phrases)


def _model(model: PathLike | None) -> str:
    return _text("model", model) or TINY


def _text(name: str, path: PathLike | None) -> str | None:
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise wrong_input(name, f"a {type(path).__name__}", "a path or a name", "Give a file or folder.")
    return os.fspath(path)


def _path(name: str, path: PathLike | None) -> Path | None:
    text = _text(name, path)
    return None if text is None else Path(text)


def _box(box: Sequence[float]) -> tuple[float, ...]:
    try:
        return tuple(float(value) for value in box)
    except (TypeError, ValueError):
        raise wrong_input("box", repr(box), "four numbers x0, y0, x1, y1", "Give the corners in pixels.") from None


def _seed(seed: Any) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise wrong_input("seed", repr(seed), f"a whole number from 0 to {LARGEST_SEED}", "Use 0, for example.")
    return seed
