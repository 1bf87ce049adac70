"""`regionstyle train harmonizer`: the small harmoniser, from the photographs of installed packages."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from .train_style import interruptible, lock_path, state_path

if TYPE_CHECKING:
    from ...harmonizer.data.composites import Scene

SCENES = 300


def run_harmonizer_training(args: argparse.Namespace) -> int:
    """Train, then write the network; Ctrl-C keeps the state, from which --resume goes on."""
    import time

    from ...engine.errors import Cancelled
    from ...engine.io.safe_write import check_output, only_one
    from ...harmonizer.small.files import save_harmonizer
    from ...harmonizer.small.training import ExampleSource, HarmonizerTraining, HarmonizerTrainingSettings, train
    from .train_generator import check_state

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    state = state_path(args.output)
    check_output(args.output, (".safetensors",))
    settings = HarmonizerTrainingSettings(steps=args.steps, batch=args.batch, seed=args.seed)
    said = [time.monotonic()]

    def report(done: int, total: int, loss: float) -> None:
        if done == total or time.monotonic() - said[0] > 15:
            said[0] = time.monotonic()
            logging.info("step %d of %d: loss %.4f", done, total, loss)

    with only_one(lock_path(state), f"a training of {args.output}"):
        check_state(state, args.resume)
        with interruptible(state) as interrupted:
            training = HarmonizerTraining(ExampleSource(settings, tiny_scenes(SCENES)))
            if not train(training, state, lambda: bool(interrupted), report):
                raise Cancelled("cancelled by the user")
        save_harmonizer(training.averaged, args.output)
        state.unlink()
    sys.stdout.write(f"wrote {args.output}\n")
    return 0


def tiny_scenes(count: int) -> list[Scene]:
    """Rendered scenes, each with the mask of one of its things: outlines that tell nothing of the light."""
    import torch

    from ...tinyworld.world import scene

    drawn = []
    for seed in range(count):
        made = scene(seed)
        mask = torch.from_numpy(made.objects[seed % len(made.objects)].mask)
        if float((mask > 0.5).float().mean()) > 0.005:
            drawn.append((torch.from_numpy(made.image).permute(2, 0, 1), (mask > 0.5).float()))
    return drawn
