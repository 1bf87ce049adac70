"""`regionstyle apply`: a trained generator on pictures, folders of pictures and frames, at their full size."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...engine.errors import wrong_input
from ...sms.generator.apply import apply_generator
from ...sms.generator.pictures import ENDINGS, picture_paths
from ..painters.generator import find_generator
from ..pictures import read_image, read_mask, save_image
from .console import console_host


def run_apply(args: argparse.Namespace) -> int:
    """`regionstyle apply IMAGE... --generator FILE|STYLE -o OUT`."""
    jobs = planned(args.images, args.output)
    generator, host = find_generator(args.generator), console_host(args.device)
    for source, target in jobs:
        image = read_image(source)
        mask = None if args.mask is None else read_mask(args.mask, (image.shape[-2], image.shape[-1]))[None]
        painted, _ = apply_generator(generator, image, host, mask=mask, feather=args.feather, tile=args.tile)
        save_image(painted, target)
    written = args.output if len(jobs) > 1 else jobs[0][1]
    sys.stdout.write(f"wrote {written}" + (f" ({len(jobs)} pictures)\n" if len(jobs) > 1 else "\n"))
    return 0


def planned(sources: list[Path], output: Path) -> list[tuple[Path, Path]]:
    """Which picture is written where: one picture to a file, several or a folder's into a folder, under their names.

    RegionStyleError for sources that are missing, a folder without pictures, names that would collide, and results
    that would replace a source.
    """
    pictures = [pair for source in sources for pair in _pictures_of(source)]
    as_file = len(pictures) == 1 and sources[0].is_file() and output.suffix.lower() in ENDINGS
    jobs = [(path, output if as_file else output / name) for path, name in pictures]
    if not as_file and output.suffix.lower() in ENDINGS:
        remedy = "Give a folder with -o."
        raise wrong_input(
            "--output", f"{output.name} for {len(pictures)} pictures of folders or files", "a folder", remedy
        )
    targets = [target.resolve() for _, target in jobs]
    if twice := sorted({str(target) for target in targets if targets.count(target) > 1}):
        raise wrong_input("images", f"several that would be {twice[0]}", "different names", "Run them one by one.")
    if same := [str(path) for path, target in jobs if path.resolve() == target.resolve()]:
        raise wrong_input("--output", f"the folder of {same[0]} itself", "another one", "Nothing is overwritten.")
    return jobs


def _pictures_of(source: Path) -> list[tuple[Path, Path]]:
    """A file, or the pictures of a folder and its subfolders in order of their names, each with its name below it."""
    if source.is_file():
        return [(source, Path(source.name))]
    accepts = f"a picture, or a folder with pictures ({', '.join(ENDINGS)})"
    if not source.is_dir():
        raise wrong_input("images", repr(str(source)), accepts, "There is no such file or folder; check the path.")
    paths = picture_paths(source)
    if not paths:
        raise wrong_input("images", f"{str(source)!r}, which holds none", accepts, "Choose another folder.")
    return [(path, path.relative_to(source)) for path in paths]
