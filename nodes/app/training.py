"""`regionstyle train tinyworld` and `regionstyle evaluate tinyworld`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

DEFAULT_FOLDER = Path("regionstyle-train")


def run_training(args: argparse.Namespace) -> int:
    """Train one stage, or all that are not finished, each with its share of the budget; Ctrl-C keeps the state."""
    import torch

    from ..tinyworld.training.stages import SHARES, STAGES, Run, run_stage
    from .console import console_host

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    device = torch.device(console_host(args.device).device)
    run = Run(args.folder or DEFAULT_FOLDER, device, from_nothing=args.from_nothing)
    stages = [args.stage] if args.stage else list(STAGES)
    for stage in stages:
        minutes = args.time_budget if args.stage else args.time_budget * SHARES[stage]
        logging.info("stage %s, %.1f minutes in all", stage, minutes)
        run_stage(stage, run, minutes)
    return 0


def run_evaluation(args: argparse.Namespace) -> int:
    """Measure the shipped networks and write the numbers as JSON to stdout."""
    from ..tinyworld.shipped import expert_files
    from .console import console_host
    from .evaluation import evaluate

    numbers = evaluate(console_host(args.device), list(expert_files()))
    sys.stdout.write(json.dumps(numbers, indent=2) + "\n")
    return 0
