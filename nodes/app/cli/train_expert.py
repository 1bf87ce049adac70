"""`regionstyle train expert`: pairs with masks to an expert whose words know their place, a LoRA file."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .train_style import RATES, interruptible, lock_path, state_path

if TYPE_CHECKING:
    from ...engine.host.workers import Workers
    from ...engine.training.run import Trained
    from ...sampler.training.settings import ExpertTrainSettings


def run_expert_training(args: argparse.Namespace) -> int:
    """Train, then write the expert, its previews and its loss curve; Ctrl-C keeps the state for --resume."""
    from ...engine.io.safe_write import check_output, only_one
    from .train_generator import chosen_workers
    from .train_style import check_style_state

    output, state = args.output, state_path(args.output)
    check_output(output, (".safetensors",))
    workers = chosen_workers(args)
    with only_one(lock_path(state), f"a training of {output}") if workers.first else nullcontext():
        check_style_state(state, args.resume)
        with interruptible(state) as interrupted:
            trained = _trained(args, state, interrupted, workers)
        if workers.first:
            _write(args, trained)
    if workers.first:
        sys.stdout.write(f"wrote {output}\n")
    return 0


def _trained(args: argparse.Namespace, state: Path, interrupted: list[int], workers: Workers) -> Trained:
    from ...engine.adapters.gates import Gates
    from ...engine.adapters.stack import ExpertStack
    from ...engine.adapters.weights import ExpertWeights
    from ...engine.training.state import StateFile, facts_of
    from ...sampler.training.examples import encode_pairs
    from ...sampler.training.manifest import read_manifest
    from ...sampler.training.run import new_expert, train_expert
    from .console import say
    from .train_style import save_preview

    settings, pairs = expert_settings(args), read_manifest(args.pairs, args.root)
    held = read_manifest(args.validation_pairs, args.root) if args.validation_pairs else []
    name, style = args.name or args.output.stem, pairs[0].things[0].style
    predictor = _predictor(args, interrupted, workers)
    side = args.resolution or predictor.native_size
    examples = encode_pairs(predictor, pairs, side, settings, held)
    for line in examples.skipped if workers.first else ():
        say(line)
    told = {"model": str(args.model), "side": side, "precision": args.precision, "processes": workers.count}
    kept = StateFile(state, facts_of(settings, examples.mark, **told))
    weights = ExpertWeights(new_expert(predictor.network, name, style, settings))
    with ExpertStack(predictor.network, [weights]) as stack, predictor.loaded():
        weights.to(predictor.host.device).requires_grad_(True)
        stack.set(Gates({name: 1.0}))
        return train_expert(
            predictor, weights, examples, settings, kept, resume=args.resume, workers=workers,
            shown=lambda step, frame: save_preview(args.output, step, frame),
        )  # fmt: skip


def expert_settings(args: argparse.Namespace) -> ExpertTrainSettings:
    """The settings that the options give."""
    from ...sampler.training.settings import ExpertTrainSettings

    given = {one.name: getattr(args, one.name) for one in fields(ExpertTrainSettings) if hasattr(args, one.name)}
    rate = args.lr if args.lr is not None else RATES.get(args.model, ExpertTrainSettings.rate)
    return ExpertTrainSettings(**{**given, "rate": rate})


def _predictor(args: argparse.Namespace, interrupted: list[int], workers: Workers) -> Any:
    import torch

    from .train_style import training_predictor

    args.device = args.device or workers.device
    predictor = training_predictor(args, interrupted)
    if args.precision != "model":
        predictor.network.to(getattr(torch, args.precision))
    return predictor


def _write(args: argparse.Namespace, trained: Trained) -> None:
    """The expert's file, its loss curve, and the loss on held-out pairs as a table."""
    from ...engine.io.safe_write import write_text
    from .console import say
    from .train_style import write_expert

    write_expert(args, trained)
    if not trained.validation:
        return
    lines = ["steps,loss", *(f"{done},{loss:.6g}" for done, loss in trained.validation)]
    write_text(args.output.with_suffix("") / "validation.csv", "\n".join(lines) + "\n", "validation losses")
    (_, first), (_, last) = trained.validation[0], trained.validation[-1]
    say(f"loss on held-out pairs: {first:.4g} before training, {last:.4g} after")
