"""`regionstyle apply`: a trained generator on pictures, folders of pictures and frames, at their full size."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ...engine.errors import RegionStyleError, wrong_input
from ...engine.host.base import LocalHost
from ...engine.region.unchanged import why_unchanged
from ...sms.generator.apply import apply_generator
from ...sms.generator.files import StyleGenerator
from ...sms.generator.pictures import ENDINGS, picture_paths
from ..files import check_file, check_folder
from ..painters.generator import find_generator
from ..picture_files import picture_format, save_edited
from ..pictures import read_mask, read_picture
from .arguments import DONE, NOTHING_TO_DO, PARTLY_FAILED
from .console import console_host, say, say_lost

Job = tuple[Path, Path]  # a picture, and where its result is written


def run_apply(args: argparse.Namespace) -> int:
    """`regionstyle apply IMAGE... --generator FILE|STYLE -o OUT`.

    A picture of several that cannot be read or written is left out and named at the end; the exit code is 1 then. With
    --strict it is 3 when no picture was changed.
    """
    jobs = planned(args.images, args.output)
    if args.mask is not None and not args.mask.is_file():
        raise wrong_input("--mask", repr(str(args.mask)), "a picture", "There is no such file; check the path.")
    generator, host = find_generator(args.generator), console_host(args.device)
    if len(jobs) == 1:
        changed = _apply(jobs[0], args, generator, host)
        sys.stdout.write(f"wrote {jobs[0][1]}\n")
        return NOTHING_TO_DO if args.strict and not changed else DONE
    changed, failures = _apply_all(jobs, args, generator, host)
    sys.stdout.write(f"wrote {args.output} ({len(jobs) - len(failures)} pictures)\n")
    if failures:
        return PARTLY_FAILED
    return NOTHING_TO_DO if args.strict and not changed else DONE


def _apply(job: Job, args: argparse.Namespace, generator: StyleGenerator, host: LocalHost) -> bool:
    """One picture read, painted and written; whether it was changed at all. What was not, and why, is said."""
    source, target = job
    picture = read_picture(source)
    mask = None if args.mask is None else read_mask(args.mask, picture.size, say)[None]
    painted, blended = apply_generator(generator, picture.image, host, mask=mask, feather=args.feather, tile=args.tile)
    if unchanged := why_unchanged(picture.image, painted, mask):
        say(f"{source}: {unchanged}")
    say_lost(source, target, picture, save_edited(picture, painted, blended, target))
    return not torch.equal(painted, picture.image)


def _apply_all(
    jobs: Sequence[Job], args: argparse.Namespace, generator: StyleGenerator, host: LocalHost
) -> tuple[bool, list[tuple[Path, Exception]]]:
    """Every job in turn: whether any picture was changed, and (picture, why) of those that failed.

    These are listed on stderr at the end.
    """
    changed = False
    failures: list[tuple[Path, Exception]] = []
    for job in jobs:
        try:
            changed |= _apply(job, args, generator, host)
        except (RegionStyleError, OSError) as error:
            failures.append((job[0], error))
    for source, reason in failures:
        say(f"left out {source}: {reason}")
    if failures:
        say(f"{len(failures)} of {len(jobs)} pictures were left out")
    return changed, failures


def planned(sources: list[Path], output: Path) -> list[Job]:
    """Which picture is written where: one picture to a file, several or a folder's into a folder, under their names.

    RegionStyleError for sources that are missing, a folder without pictures, names that would collide, results that
    would replace a source, and places that cannot be written.
    """
    pictures = [pair for source in sources for pair in _pictures_of(source)]
    is_picture = output.suffix.lower() in _written_endings() and not output.is_dir()
    as_file = len(pictures) == 1 and sources[0].is_file() and is_picture
    jobs = [(path, output if as_file else output / name) for path, name in pictures]
    if is_picture and not as_file:
        remedy = "Give a folder with -o."
        raise wrong_input(
            "--output", f"{output.name} for {len(pictures)} pictures of folders or files", "a folder", remedy
        )
    targets = [target.resolve() for _, target in jobs]
    if twice := sorted({str(target) for target in targets if targets.count(target) > 1}):
        raise wrong_input("images", f"several that would be {twice[0]}", "different names", "Run them one by one.")
    if same := [str(path) for path, target in jobs if path.resolve() == target.resolve()]:
        raise wrong_input("--output", f"the folder of {same[0]} itself", "another one", "Nothing is overwritten.")
    if as_file:
        picture_format(output)
    (check_file if as_file else check_folder)("--output", output)
    return jobs


def _written_endings() -> set[str]:
    """The endings of pictures that Pillow writes."""
    from PIL import Image

    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE}


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
