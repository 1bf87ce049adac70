"""`regionstyle find`: a mask and a score for every phrase."""

from __future__ import annotations

import argparse
import sys

from ...engine.region.regions import Regions
from ...grounding.finders.attention import AttentionSettings
from ...grounding.masks.overlay import labelled_overlay
from ...grounding.masks.region_files import save_regions
from ..ground_instruction import Where
from ..pictures import read_image, save_image
from ..stylize import FindRequest, find
from .arguments import DONE, NOTHING_TO_DO
from .console import console_host, say

NAME = "regions"  # of the files in the folder


def run_find(args: argparse.Namespace) -> int:
    """`regionstyle find IMAGE PHRASE... -o DIR`: regions.json, a PNG beside it for every region, and an overlay.

    3 with --strict when nothing was found at all, 0 otherwise.
    """
    where = Where(sam=args.sam, detector=args.detector, attention=AttentionSettings(seed=args.seed))
    request = FindRequest(args.phrases, where, args.model)
    where.check()
    image = read_image(args.image)
    found = find(image, request, console_host(args.device))
    files = save_regions(found.regions, args.output / f"{NAME}.json")
    save_image(labelled_overlay(image, found.regions.items), args.output / "overlay.png")
    sys.stdout.write(_lines(found.regions, [file.name for file in files[1:]]))
    sys.stdout.write(f"wrote {files[0]} and {args.output / 'overlay.png'}\n")
    if found.notice:
        say(found.notice)
    return NOTHING_TO_DO if args.strict and len(found.regions.missing) == len(found.regions) else DONE


def _lines(regions: Regions, masks: list[str]) -> str:
    """A line for every region: phrase, score, box and mask file, or that it was not found."""
    lines = []
    for region, mask in zip(regions, masks, strict=True):
        place = f"score {region.score:.2f}, box {','.join(map(str, region.box))}" if region.score else "not found"
        lines.append(f"{region.phrase}: {place}, mask {mask}\n")
    return "".join(lines)
