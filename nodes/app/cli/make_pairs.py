"""`regionstyle make pairs`: pictures to pairs that teach an expert where its style belongs."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from .arguments import DONE, PARTLY_FAILED
from .console import console_host, say

if TYPE_CHECKING:
    from ...engine.host.base import Host
    from ..pairs import Source


def run_pairs(args: argparse.Namespace) -> int:
    """Make the pairs, or go on with the folder; what cannot be used is left out, named, and makes the exit code 1."""
    from ..edit import EditSettings
    from ..pairs import MANIFEST, PairsRequest, make_pairs, whole_painter

    settings = EditSettings(strength=args.strength, steps=args.steps, cfg=args.cfg, seed=args.seed)
    request = PairsRequest(args.style, args.prompt, args.exact, args.model, args.expert, settings)
    request.check()
    host = console_host(args.device)
    sources = _sources(args, host)
    paint, _ = whole_painter(request, host)
    made = make_pairs(sources, request, paint, args.output, host)
    for line in made.left_out:
        say(f"left out: {line}")
    sys.stdout.write(f"wrote {args.output / MANIFEST}: {len(made.records)} pairs, {made.new} of them new\n")
    return PARTLY_FAILED if made.left_out else DONE


def _sources(args: argparse.Namespace, host: Host) -> list[Source]:
    from ...engine.errors import wrong_input
    from ...grounding.finders.attention import AttentionSettings
    from ..ground_instruction import Where
    from ..pairs import folder_sources, found_sources, scene_sources

    if args.scenes is not None:
        if args.masks is not None or args.find:
            accepts = "it alone: scenes bring their masks"
            raise wrong_input("--scenes", "it with --masks or --find", accepts, "Leave the other out.")
        return scene_sources(args.scenes, args.seed)
    if (args.masks is None) == (not args.find):
        got = "neither --masks nor --find" if args.masks is None else "both --masks and --find"
        raise wrong_input("--images", got, "one of the two", "Say where the things are.")
    if args.masks is not None:
        return folder_sources(args.images, args.masks)
    where = Where(sam=args.sam, detector=args.detector, attention=AttentionSettings(seed=args.seed))
    where.check()
    return found_sources(args.images, args.find, args.model, host, where)
