"""`regionstyle train sms-generator`: a style expert and photographs to a network that restyles in one pass."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .train_style import TINY, interruptible, lock_path, state_path

if TYPE_CHECKING:
    from torch import Tensor

    from ...sms.generator.pictures import PictureFiles
    from ...sms.generator.run import Distilled
    from ...sms.generator.training import DistillSettings
    from ...sms.generator.workers import Workers

PHOTOGRAPHS = ("astronaut", "rocket", "motorcycle")  # of the tiny world; its cat and coffee stay unseen


def run_generator_training(args: argparse.Namespace) -> int:
    """Train, then write the generator and its loss curves; Ctrl-C keeps the state for --resume."""
    from contextlib import nullcontext

    from ...engine.io.safe_write import check_output, only_one
    from ...sms.generator.files import LICENCE, save_generator

    logging.basicConfig(level=logging.INFO, format="regionstyle: %(message)s", stream=sys.stderr)
    state = state_path(args.output)
    check_output(args.output, (".safetensors",))
    workers = _workers(args)
    alone = only_one(lock_path(state), f"a training of {args.output}") if workers.first else nullcontext()
    with alone:
        check_state(state, args.resume)
        with interruptible(state) as interrupted:
            trained = _trained(args, state, interrupted, workers)
        if not workers.first:
            return 0
        save_generator(trained.generator, args.output, LICENCE if args.images is None else "")
        state.unlink()
    _write_losses(args.output, trained)
    sys.stdout.write(f"wrote {args.output}\n")
    return 0


def _workers(args: argparse.Namespace) -> Workers:
    """The processes that train together: this one alone, or those of `accelerate launch`."""
    from ...engine.errors import wrong_input
    from ...sms.generator.workers import ALONE, accelerated

    if not args.accelerate:
        return ALONE
    if args.device is not None:
        accepts = "--accelerate without it: accelerate launch gives each process its device"
        raise wrong_input("--device", args.device, accepts, "Leave --device out.")
    return accelerated()


def check_state(state: Path, resume: bool) -> None:
    """Before anything is computed: a state that would be lost, or none to go on from."""
    from ...engine.errors import wrong_input

    if state.is_file() and not resume:
        got = f"{state}, left by a training that was stopped"
        raise wrong_input("--output", got, "no unfinished training", "Go on with --resume, or delete that file.")
    if resume and not state.is_file():
        raise wrong_input("--resume", f"no {state}", "an unfinished training", "Leave out --resume to begin one.")


def _trained(args: argparse.Namespace, state: Path, interrupted: list[int], workers: Workers) -> Distilled:
    from ...sms.fake import with_fake
    from ...sms.generator.pictures import PictureFiles
    from ...sms.generator.run import distill
    from .console import console_host

    settings, pictures = _settings(args), _pictures(args)
    validation = None if args.validation is None else PictureFiles.below(args.validation, strict=args.strict)
    predictor, words = _predictor(args, console_host(args.device or workers.device, lambda: bool(interrupted)))
    gates = dict.fromkeys(predictor.experts.names, float(args.strength))
    with with_fake(predictor, settings.sms.seed) as (with_both, fake):
        return distill(
            with_both, pictures, args.caption, words, gates, fake, settings, name=args.style,
            validation=validation, state=state, workers=workers,
            on_validation=lambda done, inputs, results: _save_validation(args.output, done, inputs, results),
        )  # fmt: skip


def _settings(args: argparse.Namespace) -> DistillSettings:
    from ...sms.generator.training import DistillSettings
    from ...sms.presets import preset
    from ...sms.score import SmsSettings
    from ...sms.settings import GENERATOR_RATES

    rate = args.lr if args.lr is not None else GENERATOR_RATES[args.architecture]
    sms = SmsSettings(
        preset(args.preset), args.iterations, args.content, args.guidance, rate, args.fake_lr, not args.no_relevance,
        seed=args.seed, preview_every=args.preview_every,
    )  # fmt: skip
    return DistillSettings(sms, args.architecture, args.copies, args.warm_up, args.size)


def _pictures(args: argparse.Namespace) -> PictureFiles:
    """The folder's pictures, or the tiny world's photographs."""
    from ...engine.errors import wrong_input
    from ...sms.generator.pictures import PictureFiles

    if args.images is not None:
        return PictureFiles.below(args.images, strict=args.strict)
    if args.model != TINY:
        raise wrong_input("--images", "nothing", "a folder with pictures", "Only the tiny world brings its own.")
    from ...tinyworld.backgrounds import TRAIN_PHOTOS, photograph_path

    return PictureFiles([photograph_path(TRAIN_PHOTOS[word]) for word in PHOTOGRAPHS], strict=args.strict)


def _predictor(args: argparse.Namespace, host: Any) -> tuple[Any, str]:
    """The model with the style's expert attached, and the style in the words of its prompts."""
    from ...engine.errors import wrong_input

    if args.model == TINY:
        if args.expert is not None:
            accepts, remedy = "it with --model FOLDER", "The tiny world brings its own experts; leave --expert out."
            raise wrong_input("--expert", "a file with the tiny world", accepts, remedy)
        from ...tinyworld.bundled import load_bundled_expert, load_predictor

        return load_predictor(host, [load_bundled_expert(args.style)]), f"a picture in {args.style} style"
    if args.expert is None:
        raise wrong_input("--expert", "nothing", "the style's LoRA", "Give one with --model FOLDER.")
    from ..models import load_folder

    return load_folder(Path(args.model), args.expert, host), args.style


def _save_validation(output: Path, done: int, inputs: Tensor, results: Tensor) -> None:
    """Inputs above, results below, in a folder named like the output."""
    import torch

    from ..pictures import save_image

    rows = torch.cat([torch.cat([*row], -1) for row in (inputs, results)], -2)
    save_image(rows[None], output.with_suffix("") / f"iteration-{done:06d}.png")


def _write_losses(output: Path, trained: Distilled) -> None:
    from ...sms.pictures import curves
    from ..pictures import save_image

    save_image(curves(trained.history)[None], output.with_suffix("") / "losses.png")
