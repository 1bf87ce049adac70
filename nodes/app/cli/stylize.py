"""`regionstyle stylize`: restyle the things a sentence names, one region or the whole of the user's own picture."""

from __future__ import annotations

import argparse
import sys

from torch import Tensor

from ...grounding.finders.attention import AttentionSettings
from ...local_clip.settings import LocalClipSettings
from ..edit import EditSettings
from ..ground_instruction import NothingFound, Where
from ..local_clip import usual_settings
from ..picture_files import picture_format, save_edited
from ..pictures import read_mask, read_picture
from ..stylize import StylizeRequest, stylize
from .arguments import DONE, NOTHING_TO_DO
from .commands import CLIP_OPTIONS
from .console import console_host, say, say_lines, say_lost


def run_stylize(args: argparse.Namespace) -> int:
    """`regionstyle stylize IMAGE "PROMPT" -o OUT.png`; with --strict nothing is written when nothing was changed."""
    picture_format(args.output)
    picture = read_picture(args.image)
    image = picture.image
    request = stylize_request(args, image)
    try:
        result = stylize(image, request, console_host(args.device))
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
    return DONE


def stylize_request(args: argparse.Namespace, image: Tensor) -> StylizeRequest:
    """What the options ask for in a picture `[1,3,H,W]`. RegionStyleError for a mask that is not of its size."""
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
    )


def local_clip_settings(args: argparse.Namespace) -> LocalClipSettings | None:
    """The options of --method clip that were given; None for none."""
    given = {name: getattr(args, name) for name in CLIP_OPTIONS if getattr(args, name) is not None}
    return usual_settings(given, args.clip) if given else None
