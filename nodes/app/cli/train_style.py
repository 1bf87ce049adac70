"""`regionstyle train style`: pictures of a style to an expert, a LoRA file that ComfyUI's own loader reads too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...engine.training.run import Trained

TINY = "tinyworld"
RATES = {TINY: 1e-3}


def run_style_training(args: argparse.Namespace) -> int:
    """Train, then write the expert, its previews and its loss curve; Ctrl-C keeps the state for --resume."""
    from ...engine.io.safe_write import check_output, only_one

    output, state = args.output, state_path(args.output)
    check_output(output, (".safetensors",))
    with only_one(lock_path(state), f"a training of {output}"):
        check_style_state(state, args.resume)
        with interruptible(state) as interrupted:
            trained = _trained(args, state, interrupted)
        write_expert(args, trained)
    sys.stdout.write(f"wrote {output}\n")
    return 0


def state_path(output: Path) -> Path:
    """Where the state of a training is kept: beside its output."""
    return output.with_suffix(".train.pt")


def lock_path(state: Path) -> Path:
    """The file that a running training holds."""
    return state.with_suffix(".lock")


def check_style_state(state: Path, resume: bool) -> None:
    """Before anything is computed. RegionStyleError for a state that would be lost."""
    from ...engine.errors import wrong_input
    from ...engine.training.state import unfinished

    if not resume and unfinished(state):
        got = f"{state}, left by a training that was stopped"
        raise wrong_input("--output", got, "no unfinished training", "Go on with --resume, or delete that file.")


@contextmanager
def interruptible(state: Path) -> Iterator[list[int]]:
    """Ctrl-C is noted, so that the state is whole; a second one stops at once.

    A training that is cancelled says on stderr where its state is, and ends as Ctrl-C does (KeyboardInterrupt).
    """
    from ...engine.errors import Cancelled
    from .interrupts import noted_interrupts

    try:
        with noted_interrupts() as seen:
            yield seen
    except Cancelled:
        kept = f"; the state is kept in {state}; the same command with --resume goes on" if state.is_file() else ""
        sys.stderr.write(f"regionstyle: stopped{kept}\n")
        raise KeyboardInterrupt from None


def _trained(args: argparse.Namespace, state: Path, interrupted: list[int]) -> Trained:
    from ...engine.adapters.gates import Gates
    from ...engine.adapters.stack import ExpertStack
    from ...engine.adapters.weights import ExpertWeights
    from ...engine.lora.init import init_lora
    from ...engine.training.state import StateFile, facts_of
    from ...router.training.examples import encode_examples
    from ...router.training.run import train_style
    from ...router.training.style_pictures import Cropping, pictures_of_folder

    settings, (name, style) = _settings(args), _names(args)
    pictures = pictures_of_folder(args.images)
    predictor = training_predictor(args, interrupted)
    cropping = Cropping(args.resolution or predictor.native_size, args.crop, flip=not args.no_flip)
    examples = encode_examples(predictor, pictures, style, cropping, settings.seed)
    facts = facts_of(settings, examples.mark, style=style, model=str(args.model), **vars(cropping))
    drawn: dict[str, Any] = {"rank": settings.rank, "layers": settings.layers, "seed": settings.seed}
    weights = ExpertWeights(init_lora(predictor.network, name, style, **drawn))
    with ExpertStack(predictor.network, [weights]) as stack, predictor.loaded():
        weights.to(predictor.host.device).requires_grad_(True)
        # Set, not given to each call: with checkpointing the backward pass computes layers again.
        stack.set(Gates({name: 1.0}))
        return train_style(
            predictor, weights, examples, settings, StateFile(state, facts), resume=args.resume,
            shown=lambda step, frame: save_preview(args.output, step, frame),
        )  # fmt: skip


def _settings(args: argparse.Namespace) -> Any:
    from ...engine.training.settings import TrainSettings

    return TrainSettings(
        steps=args.steps,
        batch=args.batch,
        accumulate=args.accumulate,
        rate=args.lr if args.lr is not None else RATES.get(args.model, TrainSettings.rate),
        rank=args.rank,
        layers=args.layers,
        seed=args.seed,
        preview_every=args.preview_every,
        checkpointing=args.checkpointing,
    )


def _names(args: argparse.Namespace) -> tuple[str, str]:
    """Name and style words; each stands in for the other, the output's name for both."""
    from ...router.training.style_pictures import check_style

    name = args.name or args.output.stem
    return name, check_style(args.style or name.replace("-", " ").replace("_", " "))


def training_predictor(args: argparse.Namespace, interrupted: list[int]) -> Any:
    """The model of --model on --device; can be stopped between steps."""
    from .console import console_host

    host = console_host(args.device, lambda: bool(interrupted))
    if args.model == TINY:
        from ...tinyworld.bundled import load_predictor

        predictor: Any = load_predictor(host)
    else:
        from ..models import load_folder

        predictor = load_folder(Path(args.model), None, host)
    return predictor


def save_preview(output: Path, step: int, frame: Any) -> None:
    """Into the folder of the output's name."""
    from ..pictures import save_image

    save_image(frame[None], output.with_suffix("") / f"step-{step:06d}.png")


def write_expert(args: argparse.Namespace, trained: Trained) -> None:
    """The expert's file and its loss curve."""
    from ...engine.io.curves import loss_panel
    from ...engine.lora.save import save_expert
    from ..pictures import save_image

    save_expert(trained.expert, args.output, layout=args.layout)
    panel = loss_panel("training", trained.losses, (40, 110, 200), held_out=trained.validation)
    save_image(panel[None], args.output.with_suffix("") / "loss.png")
