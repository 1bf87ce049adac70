"""`regionstyle train tinyworld` and `regionstyle evaluate tinyworld|masks|photos`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path("regionstyle-train")


def run_training(args: argparse.Namespace) -> int:
    """Train one stage, or all that are not finished, each with its share of the budget; Ctrl-C keeps the state."""
    import torch

    from ...tinyworld.training.stages import SHARES, STAGES, Run, run_stage
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
    """Measure the shipped networks; a table to stdout, and every number to the file of --json."""
    from ...engine.io.safe_write import write_text
    from .console import console_host

    _check_options(args)
    host = console_host(args.device)
    if args.what == "photos":
        numbers, shown = _photos(args, host)
    elif args.what == "masks":
        from ..evaluation.masks import evaluate_masks, table
        from ..evaluation.presence import evaluate_presence, presence_table

        presence = evaluate_presence(host, args.scenes or 500)
        numbers = {**evaluate_masks(host, args.scenes or 500), "presence": presence}
        shown = f"{table(numbers)}\n{presence_table(presence)}"
    else:
        from ...tinyworld.bundled import expert_files
        from ..evaluation.table import table as table_of_all
        from ..evaluation.tinyworld import evaluate

        numbers = evaluate(host, list(expert_files()), args.scenes or 100)
        shown = table_of_all(numbers)
    if args.json is not None:
        write_text(args.json, json.dumps(numbers, indent=2) + "\n", "--json")
    sys.stdout.write(shown)
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """RegionStyleError for an option that this measurement would not read."""
    from ...engine.errors import wrong_input

    given = {"--scenes": args.scenes is not None, "--side": bool(args.side), "--style": bool(args.style),
             "--out": args.out is not None}  # fmt: skip
    read = ("--side", "--style", "--out") if args.what == "photos" else ("--scenes",)
    if unread := [name for name, there in given.items() if there and name not in read]:
        accepts = f"only {', '.join(read)} with {args.what}"
        raise wrong_input("evaluate", ", ".join(unread), accepts, "Leave the others out.")


def _photos(args: argparse.Namespace, host: Any) -> tuple[dict[str, Any], str]:
    """The numbers of all styles on whole photographs, and their table."""
    from ...engine.errors import wrong_input
    from ...tinyworld.bundled import expert_files
    from ..evaluation.photos import SIDES, evaluate_photos, photo_table, save_pictures

    known = list(expert_files())
    if strange := [style for style in args.style if style not in known]:
        raise wrong_input("--style", ", ".join(strange), f"some of: {', '.join(known)}", "Use these names.")
    pictures: dict[str, Any] = {}
    numbers = evaluate_photos(host, args.style or known, args.side or SIDES, pictures)
    if args.out is not None:
        save_pictures(pictures, args.out)
    return numbers, photo_table(numbers)
