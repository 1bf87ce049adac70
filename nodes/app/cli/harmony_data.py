"""`regionstyle make harmony-data`: pictures and masks to composites with a truth."""

from __future__ import annotations

import argparse
import sys

from .arguments import DONE, PARTLY_FAILED
from .console import console_host, say


def run_harmony_data(args: argparse.Namespace) -> int:
    """Make the data set, or go on with it; what cannot be used is left out, named, and makes the exit code 1."""
    from ...harmonizer.data.rpharmony import DataSettings, Runner, make_data_set, run_here
    from ...harmonizer.data.sources import coco_sources, described, folder_sources

    settings = DataSettings(
        args.subset, args.strength_from, args.strength_to, args.variants, args.test, args.largest, args.seed
    )
    sources = folder_sources(args.images, args.masks) if args.coco is None else coco_sources(args.images, args.coco)
    run: Runner = run_here
    if args.ray is not None:
        from ...harmonizer.data.ray_cluster import ray_runner

        run = ray_runner(args.ray)
    say(described(sources))
    progress = console_host("cpu").progress(len(sources), "composites")
    manifest = make_data_set(sources, args.output, settings, run, lambda done, total: progress.update(done))
    for left_out in manifest["skipped"]:
        say(f"left out: {left_out['what']}: {left_out['why']}")
    counts = manifest["counts"]
    sys.stdout.write(f"wrote {args.output}: {counts['train']} composites to train on, {counts['test']} to test on\n")
    return PARTLY_FAILED if manifest["skipped"] else DONE
