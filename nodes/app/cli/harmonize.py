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
from ...harmonizer.settings import PlaceSettings, SeamSettings
from ...harmonizer.unseen import laid_over
from ..harmonize import BUNDLED, HarmonizeRequest, harmonize
from ..picture_files import picture_format, save_edited
from ..pictures import read_mask, read_picture
from .arguments import DONE, NOTHING_TO_DO
from .console import console_host, say, say_lines, say_lost
from .harmony_commands import R2R_OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ...engine.io.pictures import Picture


def run_harmonize(args: argparse.Namespace) -> int:
    """`regionstyle harmonize COMPOSITE --mask M -o OUT`; with --strict nothing is written when nothing changed."""
    picture_format(args.output)
    guide = _guide(args)
    request = _request(args, guide)
    picture = read_picture(args.composite, "composite")
    if guide is not None:
        _say_read(args.reference, guide, picture)
    image = picture.image
    mask = read_mask(args.mask, picture.size, say)[None]
    opacity = None if picture.opacity is None else picture.opacity[None]
    result = harmonize(image, mask, request, console_host(args.device), opacity=opacity)
    say_lines(result.warning)
    if args.strict and torch.equal(result.image, image):
        return NOTHING_TO_DO
    return _written(args, picture, result.image, mask[0])


def run_paste(args: argparse.Namespace) -> int:
    """`regionstyle paste FOREGROUND BACKGROUND --at x,y -o OUT`: the background's file with the foreground in it."""
    picture_format(args.output)
    _only_with_harmonize(args)
    guide = _guide(args)
    request = _request(args, guide)
    front, behind = read_picture(args.foreground, "foreground"), read_picture(args.background, "background")
    _say_read(args.foreground, front, behind)
    if guide is not None:
        _say_read(args.reference, guide, behind)
    shape = _shape(front, args)[None, None]
    if not bool((shape > 0).any()):
        raise wrong_input("mask", "one that is black everywhere", "white where the foreground is", "Choose another.")
    place = PlaceSettings(args.at[0], args.at[1], args.scale)
    composite, mask = lay_into(front.image, shape, behind.image, place)
    share, opacity = mask, None
    if behind.opacity is not None:
        composite, share, over = laid_over(composite, behind.image, mask, behind.opacity[None, None])
        behind, opacity = behind.with_opacity(over[0, 0]), over[:, 0]
    if args.harmonize:
        result = harmonize(composite, share[:, 0], request, console_host(args.device), opacity=opacity)
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
    return torch.ones(front.size) if front.opacity is None else front.opacity


def _only_with_harmonize(args: argparse.Namespace) -> None:
    """RegionStyleError for options of harmonising without it; those that are not given get their defaults."""
    if not args.harmonize:
        for name in ("reference", "weights", "method", *R2R_OPTIONS, "seam", "seed", "device"):
            if getattr(args, name) is not None:
                raise wrong_input(f"--{name}", "one", "it with --harmonize", "Add --harmonize, or leave it out.")
    usual = SeamSettings()
    for name, value in (("method", BUNDLED), ("seam", usual.seam), ("seed", usual.seed)):
        if getattr(args, name) is None:
            setattr(args, name, value)


def _guide(args: argparse.Namespace) -> Picture | None:
    """The reference; None for none."""
    return None if args.reference is None else read_picture(args.reference, "reference")


def _request(args: argparse.Namespace, guide: Picture | None) -> HarmonizeRequest:
    """What the options ask for. RegionStyleError before any work for what does not fit."""
    reference = reference_mask = None
    if guide is not None:
        reference = guide.image
        if args.reference_mask is not None:
            reference_mask = read_mask(args.reference_mask, guide.size, say)[None, None]
        if guide.opacity is not None:
            reference_mask = guide.opacity[None, None] * (1 if reference_mask is None else reference_mask)
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


def _say_read(path: Path, picture: Picture, target: Picture) -> None:
    """What reading a picture that is only looked at left out, and that its colours are numbers of another profile."""
    for notice in picture.notices:
        say(f"{path.name}: {notice}")
    if _profile(picture) != _profile(target):
        say(f"{path.name}: its colour profile is another one; its numbers are taken as they are")


def _profile(picture: Picture) -> bytes:
    """A picture's colour profile; empty for sRGB, which is also what a picture without one is in."""
    profile = picture.profile or b""
    return b"" if any("sRGB".encode(kind) in profile for kind in ("ascii", "utf-16-be")) else profile


def _written(args: argparse.Namespace, source: Picture, image: Tensor, mask: Tensor) -> int:
    lost = save_edited(source, image, mask, args.output)
    say_lost(args.background if hasattr(args, "background") else args.composite, args.output, source, lost)
    sys.stdout.write(f"wrote {args.output}\n")
    return DONE
