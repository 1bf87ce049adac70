"""`regionstyle stylize`: restyle the things a sentence names, one region or the whole of the user's own picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch import Tensor

from ...engine.errors import Cancelled, wrong_input
from ...engine.settings.setting import settings_of
from ...grounding.finders.attention import AttentionSettings
from ...local_clip.settings import LABEL as CLIP_LABEL
from ...local_clip.settings import LocalClipSettings
from ...sms.settings import LABEL as SMS_LABEL
from ..edit import EditResult, EditSettings
from ..ground_instruction import NothingFound, Where
from ..local_clip import usual_settings
from ..local_model import TINY
from ..picture_files import picture_format, save_edited
from ..pictures import read_mask, read_picture, save_image
from ..sms import SmsChoice, sms_settings, usual_sms
from ..stylize import CLIP, KEEPING, SMS, StylizeRequest, stylize
from .arguments import DONE, INTERRUPTED, NOTHING_TO_DO
from .commands import CLIP_OPTIONS
from .console import Shown, console_host, say, say_lines, say_lost
from .interrupts import noted_interrupts
from .setting_options import flag_of, given_options, method_flag


def run_stylize(args: argparse.Namespace) -> int:
    """`regionstyle stylize IMAGE "PROMPT" -o OUT.png`; with --strict nothing is written when nothing was changed.

    Ctrl-C in a method that optimises ends it, and what it has reached is written: the exit code is that of Ctrl-C.
    """
    picture_format(args.output)
    picture = read_picture(args.image)
    image = picture.image
    request = stylize_request(args, image)
    try:
        result = _stylized(args, image, request)
    except NothingFound as error:
        if not args.strict:
            raise
        say(str(error))
        return NOTHING_TO_DO
    say_lines(result.said)
    say_lines(result.warning(image))
    if args.strict and not result.differs(image):
        return NOTHING_TO_DO
    lost = save_edited(picture, result.image, result.mask, args.output)
    say_lost(args.image, args.output, picture, lost)
    sys.stdout.write(f"wrote {args.output}\n")
    return INTERRUPTED if result.stopped else DONE


def _stylized(args: argparse.Namespace, image: Tensor, request: StylizeRequest) -> EditResult:
    """The result, or what there is of it at Ctrl-C. KeyboardInterrupt where there is nothing to keep."""
    noted: AbstractContextManager[list[int]] = noted_interrupts() if args.method in KEEPING else nullcontext([])
    with noted as interrupted:

        def cancelled() -> bool:
            """Told once: what is left to do then is to finish the picture."""
            return bool(interrupted and interrupted.pop())

        try:
            result = stylize(image, request, console_host(args.device, cancelled, _previews(args)))
        except Cancelled:
            raise KeyboardInterrupt from None
    if result.stopped and not result.differs(image):
        raise KeyboardInterrupt
    return result


def _previews(args: argparse.Namespace) -> Shown | None:
    """Writes the previews that --preview-every or --sms-preview-every asks for into a folder of the output's name; None
    for none.

    Of the method's own loop, every so many iterations. SMS counts those of each region from 0: the second one's and
    later ones' come into folders of their own.
    """
    label = {CLIP: CLIP_LABEL, SMS: SMS_LABEL}.get(args.method)
    every: int | None = args.sms_preview_every if args.method == SMS else args.preview_every
    if label is None or every is None:
        return None
    folder, region, before = Path(args.output).with_suffix(""), 1, 0

    def shown(of: str, step: int, frame: Tensor) -> None:
        nonlocal region, before
        if of != label:
            return
        region, before = region + (step < before), step
        if step % every == 0:
            place = folder / f"region-{region}" if region > 1 else folder
            save_image(frame[None], place / f"step-{step:06d}.png")

    return shown


def stylize_request(args: argparse.Namespace, image: Tensor) -> StylizeRequest:
    """What the options ask for in a picture `[1,3,H,W]`. RegionStyleError for a mask that is not of its size, and for
    options of --method clip without it."""
    where = Where(
        mask=None if args.mask is None else read_mask(args.mask, (image.shape[-2], image.shape[-1]), say),
        box=args.box,
        whole=args.whole,
        sam=args.sam,
        detector=args.detector,
        attention=AttentionSettings(seed=args.seed),
        outline=args.outline,
    )
    settings = EditSettings(strength=args.strength, steps=args.steps, cfg=args.cfg, seed=args.seed, detail=args.detail)
    sms = _sms_choice(args)
    return StylizeRequest(
        args.prompt,
        args.style,
        where,
        args.model,
        args.expert,
        args.generator,
        settings,
        args.harmonize,
        args.method,
        args.clip,
        local_clip_settings(args),
        args.composite,
        None if args.start_image is None else _start_image(args.start_image),
        sms,
    )


def _sms_choice(args: argparse.Namespace) -> SmsChoice | None:
    """The options of --method sms that were given; None for none. RegionStyleError for clip's in their place, and for
    some with another method."""
    names = sms_settings()
    for name in CLIP_OPTIONS:
        if args.method == SMS and name in names and getattr(args, name) is not None:
            flag = name.replace("_", "-")
            got, accepts = f"it with --method {SMS}", f"--{SMS}-{flag}"
            raise wrong_input(f"--{flag}", got, accepts, "It belongs to --method clip.")
    given = given_options(args, SMS, names)
    if given and args.method != SMS:
        _refuse_others(args.method, [method_flag(SMS, names[name], name) for name in given], SMS)
    return usual_sms(given, args.model == TINY) if given else None


def local_clip_settings(args: argparse.Namespace) -> LocalClipSettings | None:
    """The options of --method clip that were given; None for none. RegionStyleError for some with another method."""
    given = {name: getattr(args, name) for name in CLIP_OPTIONS if getattr(args, name) is not None}
    if given and args.method != CLIP:
        _refuse_others(args.method, [flag_of(settings_of(LocalClipSettings)[name]) for name in given], CLIP)
    return usual_settings(given, args.clip) if given else None


def _refuse_others(method: str, flags: Sequence[str], other: str) -> None:
    got, accepts = f"{method!r} with {' and '.join(flags)}", f"it without, or {other!r}"
    raise wrong_input("--method", got, accepts, "Leave out one or the other.")


def _start_image(path: Path) -> Tensor:
    """The picture of --start-image, `[1,3,H,W]`; what reading it left out is said."""
    picture = read_picture(path, "--start-image")
    for notice in picture.notices:
        say(f"{path.name}: {notice}")
    return picture.image
