"""What the commands of harmonisation accept."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...engine.settings.setting import override, settings_of
from ...harmonizer.r2r.settings import R2RSettings
from ...harmonizer.settings import PlaceSettings, RandomPoissonSettings, SeamSettings
from .arguments import Parser, add_command, add_device, place, positive, seed, share
from .expert_commands import add_make_pairs
from .setting_options import add_setting_options

# app/harmonize.py has the same names; a test compares them
METHODS = ("bundled", "reinhard", "mkl", "histogram", "poisson", "r2r")
R2R_OPTIONS = ("steps", "sampler", "resolution")


def add_harmonize(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "harmonize", "Give a pasted thing the light and colours of its background.")
    parser.add_argument("composite", type=Path, metavar="COMPOSITE")
    parser.add_argument("--mask", type=Path, required=True, metavar="FILE", help="image: white is the pasted thing")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    _add_method(parser)
    parser.add_argument("--strict", action="store_true", help="exit with 3, and write nothing, if nothing was changed")
    add_device(parser)


def add_paste(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = add_command(commands, "paste", "Paste a thing into a picture, and fit it to its light with --harmonize.")
    parser.add_argument("foreground", type=Path, metavar="FOREGROUND", help="with transparency, or with --mask")
    parser.add_argument("background", type=Path, metavar="BACKGROUND")
    parser.add_argument("--at", type=place, required=True, metavar="x,y", help="of its upper left corner, in pixels")
    add_setting_options(parser, PlaceSettings, "scale")
    parser.add_argument("--mask", type=Path, metavar="FILE", help="image of the foreground's size: white is pasted")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    parser.add_argument("--harmonize", action="store_true", help="give it the light and colours of the background")
    _add_method(parser, unset=True)
    add_device(parser)


def _add_method(parser: Parser, *, unset: bool = False) -> None:
    """unset: what is not given is None, so that the command can tell, and fills in the defaults that the help names."""
    text = f"who harmonises (default: {METHODS[0]}, the small network that comes with the pack)"
    parser.add_argument("--method", choices=METHODS, default=None if unset else METHODS[0], help=text)
    parser.add_argument("--reference", type=Path, metavar="FILE", help="a picture whose light it gets instead")
    parser.add_argument("--reference-mask", type=Path, metavar="FILE", help="the part of the reference (default: all)")
    known = settings_of(SeamSettings) if unset else {}
    seams = {
        name: override(default=None, help=f"{one.help.rstrip('.')} (default: {one.default})")
        for name, one in known.items()
    }
    add_setting_options(parser, SeamSettings, "seam", "seed", **seams)
    _add_r2r(parser)


def _add_r2r(parser: Parser) -> None:
    """What belongs to the method "r2r"; None where it is not given, since the others have none of it."""
    group = parser.add_argument_group("options of --method r2r")
    text = "R2R's networks, as published or trained here; needed, and nothing is downloaded"
    group.add_argument("--weights", type=Path, metavar="FOLDER", help=text)
    known = settings_of(R2RSettings)
    unset = {
        name: override(default=None, help=f"{known[name].help.rstrip('.')} (default: {known[name].default})")
        for name in R2R_OPTIONS
    }
    add_setting_options(group, R2RSettings, **unset)


def add_make(commands: argparse._SubParsersAction[Parser]) -> None:
    text = "Make a data set."
    parser = commands.add_parser("make", help=text, description=text, allow_abbrev=False)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="harmony-data|pairs")
    add_make_pairs(kinds)
    parser = add_command(
        kinds, "harmony-data", "Composites with a truth by Random Poisson Blending, in RPHarmony's layout; goes on."
    )
    parser.set_defaults(command="make harmony-data")
    add = parser.add_argument
    add("--images", type=Path, required=True, metavar="DIR", help="real pictures")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--masks", type=Path, metavar="DIR", help="masks: NAME.png or NAME_anything.png for NAME.jpg")
    source.add_argument("--coco", type=Path, metavar="FILE.json", help="annotations of things, in COCO's format")
    add("-o", "--output", type=Path, required=True, metavar="DIR")
    add("--subset", default="R-Own", metavar="NAME", help="folder of the data set (default: %(default)s)")
    low = override(name="low", default=0.75, help="The least strength drawn; the paper's alpha.")
    high = override(name="high", default=0.75, help="The most.")
    add_setting_options(parser, RandomPoissonSettings, options={"strength": "--strength-from"}, strength=low)
    add_setting_options(parser, RandomPoissonSettings, options={"strength": "--strength-to"}, strength=high)
    add_setting_options(parser, RandomPoissonSettings, "variants", "seed")
    add("--test", type=share, default=0.1, metavar="SHARE", help="of the pictures for testing (default: %(default)s)")
    add("--largest", type=positive, default=1024, metavar="PIXELS", help="longer side, at most (default: %(default)s)")
    add("--ray", metavar="ADDRESS", help="work on a Ray cluster: its address, or 'local' (needs the extra 'ray')")


def add_train_harmonizer(networks: argparse._SubParsersAction[Parser]) -> None:
    """`train harmonizer`, beside the other networks."""
    text = "Train the small harmoniser on the photographs of installed packages; Ctrl-C keeps the state."
    parser = add_command(networks, "harmonizer", text)
    parser.set_defaults(command="train harmonizer")
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="OUT.safetensors")
    add("--steps", type=positive, default=1000, metavar="N", help="how long (default: %(default)s)")
    add("--batch", type=positive, default=12, metavar="N", help="composites per step (default: %(default)s)")
    add("--seed", type=seed, default=0, help="of weights and composites (default: %(default)s)")
    add("--resume", action="store_true", help="go on where a training of the same output stopped")
