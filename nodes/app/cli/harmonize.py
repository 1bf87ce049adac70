"""`regionstyle harmonize` and `regionstyle paste`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

import torch

from ...engine.errors import wrong_input
from ...engine.settings.checks import checked
from ...harmonizer.place import lay_into
from ...harmonizer.r2r.settings import R2RSettings
from ...harmonizer.settings import PlaceSettings
from ..harmonize import HarmonizeRequest, harmonize
from ..picture_files import picture_format, save_edited
from ..pictures import read_mask, read_picture
from .arguments import DONE, NOTHING_TO_DO
from .console import console_host, say, say_lines, say_lost
from .harmony_commands import R2R_OPTIONS

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine.io.pictures import Picture


def run_harmonize(args: argparse.Namespace) -> int:
    """`regionstyle harmonize COMPOSITE --mask M -o OUT`; with --strict nothing is written when nothing changed."""
    picture_format(args.output)
    request = _request(args)
    picture = read_picture(args.composite, "composite")
    image = picture.image
    mask = read_mask(args.mask, picture.size, say)[None]
    result = harmonize(image, mask, request, console_host(args.device))
    say_lines(result.warning)
    if args.strict and torch.equal(result.image, image):
        return NOTHING_TO_DO
    return _written(args, picture, result.image, mask[0])


def run_paste(args: argparse.Namespace) -> int:
    """`regionstyle paste FOREGROUND BACKGROUND --at x,y -o OUT`: the background's file with the foreground in it."""
    picture_format(args.output)
    request = _request(args)
    for name, value in (("--reference", request.reference), ("--weights", request.weights)):
        if value is not None and not args.harmonize:
            raise wrong_input(name, "one", "it with --harmonize", "Add --harmonize, or leave it out.")
    front, behind = read_picture(args.foreground, "foreground"), read_picture(args.background, "background")
    shape = _shape(front, args)[None, None]
    place = PlaceSettings(args.at[0], args.at[1], args.scale)
    composite, mask = lay_into(front.image, shape, behind.image, place)
    if args.harmonize:
        result = harmonize(composite, mask[:, 0], request, console_host(args.device))
        say_lines(result.warning)
        composite = result.image
    return _written(args, behind, composite, mask[0, 0])


def _shape(front: Picture, args: argparse.Namespace) -> Tensor:
    """The foreground's mask `[H,W]`: the file's, or its own transparency."""
    if args.mask is not None:
        return read_mask(args.mask, front.size, say)
    if front.alpha is None:
        got = f"{args.foreground.name}, which has no transparency, and no --mask"
        raise wrong_input("foreground", got, "one of both", "Give --mask FILE, white where the foreground is.")
    from ...engine.io.picture_modes import FULL

    return torch.from_numpy(front.alpha.astype("float32") / FULL[front.alpha.dtype.name])


def _request(args: argparse.Namespace) -> HarmonizeRequest:
    """What the options ask for. RegionStyleError before any work for what does not fit."""
    reference = reference_mask = None
    if args.reference is not None:
        guide = read_picture(args.reference, "reference")
        reference = guide.image
        if args.reference_mask is not None:
            reference_mask = read_mask(args.reference_mask, guide.size, say)[None, None]
    elif args.reference_mask is not None:
        raise wrong_input("--reference-mask", "a mask", "it with --reference", "Give the reference picture as well.")
    request = HarmonizeRequest(
        args.method, reference, reference_mask, args.seam, args.seed, args.weights, _r2r_settings(args)
    )
    request.check()
    return request


def _r2r_settings(args: argparse.Namespace) -> R2RSettings | None:
    """The options of --method r2r that were given; None for none."""
    given = {name: getattr(args, name) for name in R2R_OPTIONS if getattr(args, name) is not None}
    return R2RSettings(**checked(R2RSettings, **given)) if given else None


def _written(args: argparse.Namespace, source: Picture, image: Tensor, mask: Tensor) -> int:
    lost = save_edited(source, image, mask, args.output)
    say_lost(args.background if hasattr(args, "background") else args.composite, args.output, source, lost)
    sys.stdout.write(f"wrote {args.output}\n")
    return DONE
