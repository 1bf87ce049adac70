"""`regionstyle demo`."""

from __future__ import annotations

import argparse
import sys
import time

from ..demo import DEFAULT_SCENE, DEFAULT_STYLE, run, write
from ..evaluation.scenes import demo_scene
from ..measure import peak_memory_mb
from .console import console_host


def run_demo(args: argparse.Namespace) -> int:
    """Make the demo and write it into the folder of --out."""
    began = time.monotonic()
    number = DEFAULT_SCENE if args.scene is None else args.scene
    result = run(demo_scene(number), args.style or DEFAULT_STYLE, args.seed, console_host(args.device))
    result.metrics.update(scene=number, seconds=round(time.monotonic() - began, 2), peak_memory_mb=peak_memory_mb())
    write(result, args.out)
    sys.stdout.write(
        f"{result.metrics['prompt']}: wrote {args.out / 'sheet.png'} "
        f"(style score {result.metrics['style_score']:.2f}, "
        f"background equal: {str(result.metrics['background_equal']).lower()})\n"
    )
    return 0
