"""`regionstyle train r2r-vae | r2r-unet | r2r-controller`: R2R's three stages, from a harmonisation data set."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .train_style import interruptible, lock_path

if TYPE_CHECKING:
    from torch import Tensor

    from ...engine.host.workers import Workers
    from ...harmonizer.r2r.losses import Features
    from ...harmonizer.training.run import StageState, StageTrainer
    from ...harmonizer.training.settings import R2RTrainSettings
    from ...harmonizer.training.start import Start


def run_r2r_training(args: argparse.Namespace) -> int:
    """Train one stage and write its part of the folder; Ctrl-C keeps the state for --resume."""
    from ...engine.io.safe_write import only_one
    from .train_generator import check_state, chosen_workers

    state = args.output / f"{args.stage}.train.pt"
    workers = chosen_workers(args)
    with only_one(lock_path(state), f"a training of {args.output}") if workers.first else nullcontext():
        check_state(state, args.resume)
        with interruptible(state) as interrupted:
            trainer = _trained(args, state, interrupted, workers)
        if not workers.first:
            return 0
        _write(args, trainer)
        state.unlink(missing_ok=True)
    sys.stdout.write(f"wrote {args.output}\n")
    return 0


def _trained(args: argparse.Namespace, path: Path, interrupted: list[int], workers: Workers) -> StageTrainer:
    from ...harmonizer.r2r.architecture import size_named
    from ...harmonizer.training.own_features import unit_latents
    from ...harmonizer.training.pairs import Pairs, has_split
    from ...harmonizer.training.run import StageTrainer, train_stage
    from ...harmonizer.training.stages import new_stage
    from ...harmonizer.training.start import starting_networks
    from .console import console_host, say

    settings, pairs = _settings(args), Pairs.of(args.data)
    host = console_host(args.device or workers.device, lambda: bool(interrupted))
    places = [place for place in (args.start, args.output) if place is not None]
    start = starting_networks(args.stage, size_named(args.size), settings.seed, places)
    features = _features(args, start, host)
    for told in (*start.told, f"contrastive loss: {features.name}" if args.stage == "vae" else ""):
        if told:
            say(told)
    stage = new_stage(args.stage, start.networks, features, from_nothing=start.from_nothing)
    trainer = StageTrainer(stage, pairs, settings, host, workers)
    validation = Pairs.of(args.data, "test") if has_split(args.data, "test") else None
    train_stage(trainer, _state(path, trainer, args, start, features), resume=args.resume, validation=validation,
                on_grid=lambda done, grid: _save_grid(args, done, grid))  # fmt: skip
    if args.stage == "vae" and start.from_nothing:
        unit_latents(start.networks.vae, pairs, settings.side("vae"), host)
    return trainer


def _settings(args: argparse.Namespace) -> R2RTrainSettings:
    from ...harmonizer.training.settings import R2RTrainSettings

    return R2RTrainSettings(
        steps=args.steps or None,
        epochs=args.epochs,
        batch=args.batch,
        accumulate=args.accumulate or None,
        rate=args.lr,
        resolution=args.resolution or None,
        seed=args.seed,
        preview_every=args.preview_every,
        precision=args.precision,
    )


def _features(args: argparse.Namespace, start: Start, host: Any) -> Features:
    """VGG16 where its file is given; else the shipped classifier's features, which the output names."""
    from ...harmonizer.r2r.losses import Features, vgg_features
    from ..metric_networks import TINY_CLASSIFIER, tiny_features

    if getattr(args, "vgg", None) is not None:
        return vgg_features(args.vgg, host.device)
    from ...tinyworld.classifier import load_classifier

    read = tiny_features(load_classifier().to(host.device).requires_grad_(False))
    return Features(lambda pictures: read(pictures / 2 + 0.5)[1], f"{TINY_CLASSIFIER}, in the place of VGG16")


def _state(path: Path, trainer: StageTrainer, args: argparse.Namespace, start: Start, features: Features) -> StageState:
    from ...harmonizer.training.run import StageState

    more = {"features": features.name} if args.stage == "vae" else {}
    return StageState.of(path, trainer, size=args.size, from_nothing=start.from_nothing, **more)


def _save_grid(args: argparse.Namespace, done: int, grid: Tensor) -> None:
    from ..pictures import save_image

    save_image(grid[None], args.output / "grids" / f"{args.stage}-{done:06d}.png")


def _write(args: argparse.Namespace, trainer: StageTrainer) -> None:
    from ...engine.io.curves import loss_panel
    from ...harmonizer.r2r.files import save_part, save_prompt
    from ..pictures import save_image

    networks = trainer.stage.networks
    save_part(args.stage, trainer.stage.trained.state_dict(), networks.architecture, args.output)
    if args.stage != "vae":
        save_prompt(networks.empty_prompt, args.output)
    losses = loss_panel(f"training the {args.stage}", trainer.losses, (40, 110, 200))
    save_image(losses[None], args.output / "grids" / f"{args.stage}-loss.png")
